#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "compiler/base/shape.h"

namespace mpc::cpu {

/// A copy between two places that walk the same index space with different steps: transposition, slicing, broadcasting,
/// and the like. Planned once: dimensions of one element are dropped, and neighbours that both sides walk alike become
/// one.
class StridedCopy {
 public:
  using Steps = std::array<int64_t, kMaxRank>;
  struct Dim {
    int64_t count;
    int64_t from_step;  // in elements; 0 repeats an element
    int64_t to_step;
  };

  StridedCopy() = default;
  StridedCopy(const Shape& shape, const Steps& from_steps, int64_t from_begin, const Steps& to_steps, int64_t to_begin,
              int64_t element_bytes);
  /// @pre `from` and `to` do not overlap.
  void run(const std::byte* from, std::byte* to, int threads) const;

 private:
  template <class Word>
  void run_words(const Word* from, Word* to, int threads) const;
  template <class Word>
  void run_block(const Word* from, Word* to) const;

  std::vector<Dim> outer_;  // outermost first
  std::vector<Dim> block_;  // the one or two innermost dimensions, which are copied together
  int64_t blocks_ = 1;
  int64_t from_begin_ = 0;
  int64_t to_begin_ = 0;
  int64_t element_bytes_ = 1;
};

}  // namespace mpc::cpu
