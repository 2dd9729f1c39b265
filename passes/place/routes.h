#pragma once

#include <vector>

#include "compiler/cost/cluster.h"
#include "passes/place/search/device_sets.h"

namespace mpc::place {

/// The link that tensors take, and the one that their gradients take back.
struct Connection {
  Link there;
  Link back;
};

/// A stage on a device of a kind, and what connects it with the stages before and behind it.
struct Way {
  int kind = 0;
  Connection arrives;
  Connection leaves;
  int first_step = 0;  // of its steps in Routes, which stand together
  int last_step = 0;   // one behind
};

/// One more stage leads from a border between stages to the next. A border knows which devices the stages before it
/// use, the last of them, and the one behind it, because these two say what crossing it costs.
struct RouteStep {
  int from = 0;  // border
  int to = 0;
};

/// All ways to put one stage after another on the devices of an instance.
struct Routes {
  std::vector<int> state_of_border;  // of DeviceSets
  std::vector<char> is_first;        // [border]: no stage is before it
  std::vector<char> is_last;         // [border]: none is behind it
  std::vector<Way> ways;
  std::vector<RouteStep> steps;
};

/// Every order of the devices; those of a kind are alike in their links, too. `devices` are the cluster's numbers of
/// the instance's devices. Without ways when there are more than `most_steps` steps. O(steps * kinds).
Routes routes_in_any_order(const Cluster& cluster, const Instance& instance, const DeviceSets& sets,
                           const std::vector<int>& devices, size_t most_steps);

/// One order: stages on the first, the first two ... of `order`, the cluster's numbers of devices. O(devices).
Routes routes_in_order(const Cluster& cluster, const Instance& instance, const std::vector<int>& devices,
                       const std::vector<int>& order);

/// An order of the devices in which few seconds pass from each to the next for a tensor of `bytes`: the best of those
/// that begin with each device and go on with the nearest one left. O(devices^3), from at most 64 first devices.
std::vector<int> order_of_least_seconds(const Cluster& cluster, double bytes);

}  // namespace mpc::place
