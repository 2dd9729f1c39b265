#pragma once

#include <functional>
#include <string>
#include <vector>

#include "executor/backend.h"
#include "models/zoo.h"
#include "passes/lower_precision.h"

// The nodes of the zoo's plans, as kernels are asked for them: what a library must be able to do.

namespace mpc::test {

/// A model of the zoo, with its sizes.
struct ZooCase {
  std::string name;
  zoo::Options options;
};

/// Calls `check` for the nodes of the models' plans on one device, for inference and for training, whose op is wanted:
/// once per op, attributes, types and shapes. Returns how many that were.
int for_each_zoo_node(const std::vector<ZooCase>& cases, Precision precision,
                      const std::function<bool(OpKind)>& is_wanted,
                      const std::function<void(const executor::NodeSpec&)>& check);

}  // namespace mpc::test
