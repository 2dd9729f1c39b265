#pragma once

#include <cstdint>

#include "executor/cuda/launch.h"
#include "executor/functors/order.h"

// What a block compares when it looks for the element that comes first: ArgMax, ArgMin, TopK.

namespace mpc::cuda {

/// An index with the value it won with; index -1 is none yet.
template <class T>
struct Candidate {
  T value;
  int64_t index;
};

/// The better of two candidates; of equals the one with the lower index, or the higher one.
template <class T>
struct BetterCandidate {
  bool is_max;
  bool takes_last;
  MPC_DEVICE Candidate<T> operator()(const Candidate<T>& a, const Candidate<T>& b) const {
    if (a.index < 0) return b;
    if (b.index < 0) return a;
    if (functors::comes_before(b.value, a.value, is_max)) return b;
    if (functors::comes_before(a.value, b.value, is_max)) return a;
    return (takes_last == (b.index > a.index)) ? b : a;
  }
};

}  // namespace mpc::cuda
