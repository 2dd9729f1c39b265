#pragma once

#include <string>

#include "compiler/base/op_kind.h"
#include "executor/backend.h"
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

/// Why the plugin's own kernels do not take a node, or "". Known without the plugin, so that planning can ask. What
/// passes here and is still refused when a session is made (types that no model has) ends with M046.
inline std::string refusal(const executor::NodeSpec& node) {
  if (!has_kernel(node.op)) return "the CUDA backend has no kernel for " + std::string(op_name(node.op));
  constexpr int kMostSpatial = 3;
  switch (node.op) {
    case OpKind::AveragePool:
    case OpKind::AveragePoolGrad:
    case OpKind::Conv:
    case OpKind::ConvInputGrad:
    case OpKind::ConvWeightGrad:
    case OpKind::MaxPool:
    case OpKind::MaxPoolGrad: {
      const int spatial = node.inputs[0].shape.rank() - 2;
      if (spatial <= kMostSpatial) return "";
      return "the CUDA backend has windows over 1 to 3 spatial dimensions, here are " + std::to_string(spatial);
    }
    default:
      return "";
  }
}

}  // namespace mpc::cuda
