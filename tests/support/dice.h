#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace mpc::test {

/// What a random test draws from: the same seed gives the same numbers on any machine.
class Dice {
 public:
  explicit Dice(uint32_t seed) : engine_(seed) {}
  /// A number in [0, count). @pre count > 0.
  size_t below(size_t count) { return engine_() % count; }
  template <class T>
  T& pick(std::vector<T>& items) {
    return items[below(items.size())];
  }

 private:
  std::mt19937 engine_;
};

}  // namespace mpc::test
