#pragma once

#include <cstdint>

#include "executor/cuda/launch.h"

// Many tensors by one launch. Their elements are cut into runs, which are numbered through all tensors: one block for
// each. The table of the tensors is a parameter of the launch, of which there may be 32,764 bytes.

namespace mpc::cuda {

inline constexpr int64_t kRun = 4096;
inline constexpr size_t kMostTableBytes = 32000;  // the rest is for what stands beside the table

inline int64_t runs_of(int64_t count) {
  return (count + kRun - 1) / kRun;
}
/// The elements of run `run` of a tensor of `count` elements.
MPC_DEVICE inline int64_t run_length(int64_t run, int64_t count) {
  return (run + 1) * kRun <= count ? kRun : count - run * kRun;
}
/// The last tensor whose first_run is the run or before it.
template <class Tensor>
MPC_DEVICE int tensor_of(const Tensor* tensors, int tensor_count, int64_t run) {
  int low = 0;
  int high = tensor_count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (tensors[middle].first_run <= run ? low : high) = middle;
  }
  return low;
}

}  // namespace mpc::cuda
