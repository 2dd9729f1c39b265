#pragma once

#include <string>
#include <vector>

#include "compiler/plan/plan.h"
#include "mpc/plan.h"

namespace mpc::api {

/// Nodes that a picture shows as one box: all on one device and of one direction (forward, backward, update).
struct Block {
  enum class Direction : uint8_t { forward, backward, update };
  std::string name;
  DeviceId device;
  Direction direction = Direction::forward;
  std::vector<PlanIndex> nodes;  // ascending
};

/// The boxes of a picture, in the order of their first nodes.
struct Folding {
  std::vector<Block> blocks;
  std::vector<int> block_of_node;  // -1: not shown
};

// How nodes are folded at level block: by the scopes in their names ("layer1.0/conv1/Conv" is in layer1.0 and in
// layer1.0/conv1), as deep as the number of boxes allows. Where even the outermost scopes are too many, or names have
// no scopes, neighbours in execution order are joined, by preference cut where only one value passes.

/// O(N * depth of names + E).
Folding fold(const Plan& plan, const v1::DotOptions& options);

}  // namespace mpc::api
