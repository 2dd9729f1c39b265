#pragma once

#include <string>
#include <vector>

#include "compiler/plan/plan.h"

namespace mpc::api {

/// A block of the forward nodes of one device: a scope of their names, some neighbours, or one node.
struct TreeBlock {
  std::string name;
  int parent = -1;  // an earlier block; -1: the device itself
  DeviceId device;
  PlanIndex node = kNone;  // of a leaf
};

/// The forward nodes of a plan as one tree per device, parents before children and children in execution order. Scopes
/// are those of names ("layer1/conv" is in layer1). Where one block would have more than forty children, neighbours are
/// put together, so that a picture of the open blocks stays small. O(nodes * depth of names).
std::vector<TreeBlock> block_tree(const Plan& plan);

}  // namespace mpc::api
