#pragma once

#include "executor/cuda/launch.h"

// Which positions of a list of targets have the same target: what makes scatters and the gradient of Gather ordered,
// without atomics. Short lists are compared with themselves, long ones sorted (bitonic: Batcher, "Sorting networks and
// their applications", AFIPS 1968); both give the same.

namespace mpc::cuda {

class Occurrences {
 public:
  explicit Occurrences(int64_t count);

  /// For all positions j of a list: targets[j] is filled in by the caller before find(); next[j] is the first position
  /// after j with the same target, or -1; is_first[j] is 1 when no position before j has it, else 0.
  struct Lists {
    int64_t* targets;
    int64_t* next;
    int64_t* is_first;
  };
  Lists lists(void* workspace) const;
  /// O(count^2) work for short lists, O(count log^2 count) for long ones.
  void find(Stream stream, void* workspace) const;
  int64_t workspace_bytes() const;

 private:
  /// Up to here comparing takes less time than the launches of a sort.
  static constexpr int64_t kMostCompared = 4096;
  int64_t count_;
  int64_t padded_;  // the power of two that is sorted, or 0
};

}  // namespace mpc::cuda
