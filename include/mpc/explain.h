#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mpc/cluster.h"
#include "mpc/compile.h"
#include "mpc/model.h"
#include "mpc/namespace.h"
#include "mpc/plan.h"

namespace mpc::v1 {

/// Another plan for the same request, made by the same compiler and judged by the same simulation and memory plan.
struct Alternative {
  std::string change;       // "move 4 nodes, layer3/conv1 to layer3/relu, to cpu:1"
  bool fits = false;        // false: what follows is of a plan that exceeds a capacity, and step_seconds is 0
  double step_seconds = 0;  // predicted
  int64_t sent_bytes = 0;   // between devices, per step
  int64_t peak_bytes = 0;   // of the fullest device
};

/// Where values go from one device to another.
struct Cut {
  int from = 0;
  int to = 0;
  std::vector<TransferPlan> transfers;    // both ways, largest first
  int64_t forward_bytes = 0;              // per step, from `from` to `to` in the forward pass
  int64_t backward_bytes = 0;             // the gradients that come back
  std::vector<Alternative> alternatives;  // the boundary elsewhere: the three best, best first
};

/// Why the split is where it is: what every cut costs, and what the best other plans would.
struct Explanation {
  std::vector<Cut> cuts;
  std::vector<Alternative> others;  // another number of devices, another schedule: the three best, best first
  int64_t plans_tried = 0;
  std::string text;
  std::string json;
};

/// Makes the alternatives and compares them. Takes as long as compiling a few dozen times, less the import;
/// options.progress is told before each.
/// @pre plan is what compile() gave for the same model, cluster and options. @throws as compile().
Explanation explain(const Model& model, const Cluster& cluster, const CompileOptions& options, const Plan& plan);

}  // namespace mpc::v1
