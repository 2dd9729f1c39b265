#pragma once

// Everything that generated code includes (executor/cuda/fused_source.h) is compiled without a standard library but for
// what executor/cuda/nvrtc_std.h has of it: this file, unary.h, binary.h and compiler/base/half.h.

namespace mpc::functors {

/// The attributes of a function as numbers; what they mean is said at each functor that reads them.
template <class T>
struct Parameters {
  T a = 0;
  T b = 0;
};

}  // namespace mpc::functors
