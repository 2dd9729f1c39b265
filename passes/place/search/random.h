#pragma once

#include <cstdint>

#include "compiler/base/random.h"

namespace mpc::place {

/// A small fast sequence of random words for the search: the same on every machine. Source: S. Vigna, xorshift64*.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(mix_bits(seed) | 1) {}
  uint32_t word() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<uint32_t>((state_ * 0x2545F4914F6CDD1Du) >> 32);
  }
  /// A number in [0, bound). @pre 0 < bound. The bias of the product is below 2^-10 for any bound that fits a graph.
  int below(int bound) { return static_cast<int>((uint64_t{word()} * static_cast<uint64_t>(bound)) >> 32); }

 private:
  uint64_t state_;
};

}  // namespace mpc::place
