#pragma once

#include <map>
#include <string>
#include <vector>

#include "compiler/base/attributes.h"
#include "compiler/cost/profile.h"
#include "compiler/plan/plan.h"
#include "executor/backend.h"
#include "executor/measure_operands.h"

// Which nodes a profile times: every one of the plans given that differs from the others for its kernel.

namespace mpc::api {

/// One node to time, with what its sample is filed under.
struct ProfileNode {
  OpKey key;
  Attributes attributes;
  executor::NodeSpec spec;  // its attributes are set when it is timed: these move
  double flops = 0;
  double bytes = 0;
  int64_t workspace_bytes = 0;
  executor::MeasureOptions options;
};

/// Nodes by what tells them apart for their kernel.
using ProfileNodes = std::map<std::string, ProfileNode>;

struct ProfiledDevice {
  bool has_tf32 = false;    // products of f32 are timed a second time, with rounded operands
  // What is read or written again after more bytes than these is timed as it lies in memory; 0: all in the cache.
  int64_t cache_bytes = 0;
};

/// Adds the nodes of a plan for one device.
void add_nodes(const Plan& plan, const ProfiledDevice& device, ProfileNodes& nodes);

/// A node of its own, for rates that no model need contain.
ProfileNode node_alone(OpKind op, DType dtype, const std::vector<Shape>& shapes);

}  // namespace mpc::api
