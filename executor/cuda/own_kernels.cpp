#include "executor/cuda/has_kernel.h"
#include "executor/cuda/kernel.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/functors/unary.h"

namespace mpc::cuda {
namespace {

KernelFactory factory_of(OpKind op) {
  switch (op) {
#define MPC_CUDA_KERNEL(name, factory) \
  case OpKind::name:                   \
    return &factory;
#include "executor/cuda/kernels/kernels.def"
#undef MPC_CUDA_KERNEL
#define MPC_CASE(name) case OpKind::name:
    MPC_UNARY(MPC_CASE)
#undef MPC_CASE
    return &unary;
    default:
      return nullptr;
  }
}

}  // namespace

KernelOrReason find_own_kernel(const executor::NodeSpec& node, const MakeOptions& options) {
  if (std::string reason = refusal(node); !reason.empty()) return declined(std::move(reason));
  return factory_of(node.op)(node, options);
}

}  // namespace mpc::cuda
