#pragma once

#include "executor/cuda/data.h"

namespace mpc::cuda {

/// A number as a tensor of the type would hold it; bool is 0 or 1.
MPC_DEVICE inline float rounded(float value, DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return to_float(to_bf16(value));
    case DType::f16:
      return to_float(to_f16(value));
    case DType::boolean:
      return value != 0 ? 1.0f : 0.0f;
    default:
      return value;
  }
}

}  // namespace mpc::cuda
