#pragma once

#include "compiler/base/attributes.h"
#include "executor/backend.h"
#include "executor/cuda/abi.h"

// A node as it crosses the C interface, turned back into the types that kernels are made with. Used by the plugin and
// by the devices that tests make.

namespace mpc::cuda {

/// A node with its attributes. @throws Error(M040) for an op that this plugin does not know.
struct OwnedNode {
  explicit OwnedNode(const mpc_cuda_node& node);
  OwnedNode(const OwnedNode&) = delete;
  OwnedNode& operator=(const OwnedNode&) = delete;

  Attributes attributes;
  executor::NodeSpec spec;  // its attributes are the ones above
  bool allows_tf32 = false;
};

}  // namespace mpc::cuda
