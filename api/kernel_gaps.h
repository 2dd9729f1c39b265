#pragma once

#include "passes/place/kernel_gaps.h"

namespace mpc::api {

/// What the backends of this build are known to have no kernels for: nothing on "cpu", whose reference kernels are
/// complete; on "cuda" what executor/cuda/has_kernel.h says.
place::KernelRefusal known_kernel_gaps();

}  // namespace mpc::api
