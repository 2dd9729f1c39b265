#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "compiler/base/literal.h"
#include "compiler/base/weights.h"
#include "compiler/ir/graph.h"
#include "compiler/plan/plan.h"
#include "executor/session.h"
#include "passes/pipeline.h"

// Plans graphs for CPU devices, runs the plans, and compares all that they compute bit for bit.

namespace mpc::test {

/// A device for every forward node, by name; each equally likely. The same seed gives the same assignment.
std::map<std::string, int> random_assignment(const Graph& graph, int devices, uint64_t seed);

/// The plan for `devices` CPU devices, checked by check_plan.
/// @throws std::runtime_error when none fits, Error(M061) when the plan is wrong.
Plan plan_on_cpus(const FrontGraphs& graphs, int devices, const PlanOptions& options);
Plan plan_on_cpus(const onnx_io::Model& model, int devices, const PlanOptions& options, const Evaluator& evaluator);

struct RunOptions {
  uint64_t seed = 0;  // of the session and of the content of the inputs
  int steps = 2;
  /// Integer inputs (labels, tokens) are in [0, integer_bound).
  int64_t integer_bound = 8;
  /// Content of inputs by name, instead of random numbers.
  std::map<std::string, Literal> inputs;
  /// Of the session; seed and poison are set by run_plan.
  executor::SessionOptions session = {};
};

/// All that a plan computed.
struct Outcome {
  std::vector<double> losses;              // one per step; 0 when nothing is trained
  std::map<std::string, Literal> tensors;  // outputs, gradients, parameters and states after the last step
};

/// Takes `steps` steps of a session whose inputs are bound.
/// @throws std::runtime_error when a device's arena is not the plan's, or was used beyond its end.
Outcome take_steps(executor::Session& session, const Plan& plan, int steps);

/// Runs the plan with poisoned arenas.
/// @throws std::runtime_error when a device's arena is not the plan's, or was used beyond its end.
Outcome run_plan(const Plan& plan, const WeightSource& weights, const RunOptions& options);

/// The first tensor or loss whose bits differ, or that only one of them has; in words.
std::optional<std::string> find_difference(const Outcome& expected, const Outcome& actual);

/// Whether every loss and every element of the float tensors is a finite number.
bool is_finite(const Outcome& outcome);

}  // namespace mpc::test
