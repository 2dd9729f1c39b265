#pragma once

// The public types live in mpc::v1 and are used as mpc::Model, mpc::Plan and so on. Their names are also those of types
// inside mpc (namespace mpc proper): mpc's own sources that see both define MPC_INSIDE_API and write v1::Plan.

namespace mpc {
namespace v1 {}
#ifndef MPC_INSIDE_API
using namespace v1;
#endif
}  // namespace mpc
