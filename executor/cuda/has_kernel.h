#pragma once

#include "compiler/base/op_kind.h"
#include "executor/functors/unary.h"

namespace mpc::cuda {

/// Has the CUDA backend a kernel for this op, for at least some types and shapes (kernels.def)?
inline bool has_kernel(OpKind op) {
  switch (op) {
#define MPC_CUDA_KERNEL(name, factory) case OpKind::name:
#include "executor/cuda/kernels/kernels.def"
#undef MPC_CUDA_KERNEL
#define MPC_CASE(name) case OpKind::name:
    MPC_UNARY(MPC_CASE)
#undef MPC_CASE
    return true;
    default:
      return false;
  }
}

}  // namespace mpc::cuda
