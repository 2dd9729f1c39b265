#include <array>

#include "executor/kernel.h"

// Every op of ops.def has a kernel mpc::reference::<Name>, in some file of this folder.
namespace mpc::reference {
#define MPC_OP(name, share, aliases) void name(const KernelCall& call);
#include "compiler/base/ops.def"
#undef MPC_OP
}  // namespace mpc::reference

namespace mpc {

ReferenceKernel reference_kernel(OpKind op) {
  static constexpr std::array<ReferenceKernel, kOpCount> kTable = {
#define MPC_OP(name, share, aliases) &reference::name,
#include "compiler/base/ops.def"
#undef MPC_OP
  };
  return kTable[static_cast<size_t>(op)];
}

}  // namespace mpc
