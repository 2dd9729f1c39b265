#include "tests/support/run_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <variant>

#include "compiler/base/checked.h"
#include "compiler/base/random.h"
#include "compiler/plan/check.h"
#include "executor/session.h"
#include "tests/support/random_graph.h"

namespace mpc::test {
namespace {

std::vector<std::byte> random_content(const PlanInput& input, DType dtype, const Shape& shape,
                                      const RunOptions& options) {
  std::vector<std::byte> bytes(static_cast<size_t>(byte_size(shape, dtype)));
  if (dtype == DType::f32) {
    SeededWeights(options.seed).read("input " + input.name, 0, bytes);
    return bytes;
  }
  const auto width = static_cast<size_t>(dtype_bytes(dtype));
  for (size_t i = 0; i * width < bytes.size(); ++i) {
    const uint64_t bits = mix_bits(options.seed + mix_bits(i));
    write_integer(dtype, bytes.data() + i * width,
                  static_cast<int64_t>(bits % static_cast<uint64_t>(options.integer_bound)));
  }
  return bytes;
}

/// Binds what the session does not supply itself. @return the bound memory, which must outlive the steps.
std::vector<std::vector<std::byte>> bind_inputs(executor::Session& session, const Plan& plan,
                                                const RunOptions& options) {
  std::vector<std::vector<std::byte>> contents;
  for (const PlanInput& input : plan.inputs) {
    if (input.role == PlanInput::Role::step || input.role == PlanInput::Role::learning_rate_scale) continue;
    const PlanValue& value = plan.values[input.value];
    Shape shape = value.shapes[0];
    if (input.is_batched && plan.batch > 0) shape.set(0, plan.batch);
    const auto given = options.inputs.find(input.name);
    contents.push_back(given != options.inputs.end() ? given->second.dense()
                                                     : random_content(input, value.dtype, shape, options));
    session.bind(input.name, value.dtype, shape, contents.back());
  }
  return contents;
}

Cluster cpus(int count) {
  return uniform_cluster(*find_device_kind("cpu"), count);
}

Plan checked(std::variant<Plan, Infeasible> result) {
  if (std::holds_alternative<Infeasible>(result)) throw std::runtime_error("no plan fits");
  Plan plan = std::get<Plan>(std::move(result));
  check_plan(plan);
  return plan;
}

void require_planned_arenas(const executor::Session& session, const Plan& plan) {
  const auto uses = session.arena_use();
  for (size_t i = 0; i < uses.size(); ++i) {
    const std::string device = "device " + std::to_string(i);
    if (uses[i].arena_bytes != plan.devices[i].arena_bytes) {
      throw std::runtime_error(device + " has an arena of " + std::to_string(uses[i].arena_bytes) +
                               " bytes, planned are " + std::to_string(plan.devices[i].arena_bytes));
    }
    // All of it, up to the alignment of the last slice.
    if (align_up(uses[i].used_bytes, kSliceAlignment) != uses[i].arena_bytes) {
      throw std::runtime_error(device + " used " + std::to_string(uses[i].used_bytes) + " of " +
                               std::to_string(uses[i].arena_bytes) + " bytes");
    }
  }
}

}  // namespace

std::map<std::string, int> random_assignment(const Graph& graph, int devices, uint64_t seed) {
  std::map<std::string, int> assignment;
  for (const Node& node : graph.nodes()) {
    if (node.phase != Phase::forward) continue;
    assignment[node.name] = static_cast<int>(mix_bits(++seed) % static_cast<uint64_t>(devices));
  }
  return assignment;
}

Plan plan_on_cpus(const FrontGraphs& graphs, int devices, const PlanOptions& options) {
  return checked(make_plan(graphs, cpus(devices), options));
}

Plan plan_on_cpus(const onnx_io::Model& model, int devices, const PlanOptions& options, const Evaluator& evaluator) {
  return checked(make_plan(model, cpus(devices), options, evaluator));
}

Outcome take_steps(executor::Session& session, const Plan& plan, int steps) {
  Outcome outcome;
  for (int i = 0; i < steps; ++i) outcome.losses.push_back(session.step().loss);
  for (const PlanOutput& output : plan.outputs) {
    outcome.tensors.emplace("output " + output.name, session.output(output.name));
  }
  for (const PlanGradient& gradient : plan.gradients) {
    const std::string& parameter = plan.values[gradient.parameter].name;
    outcome.tensors.emplace("gradient of " + parameter, session.gradient(parameter));
  }
  for (const PlanUpdate& update : plan.updates) {
    const std::string& name = plan.values[update.persistent].name;
    outcome.tensors.emplace(name, session.read(name));
  }
  require_planned_arenas(session, plan);
  return outcome;
}

Outcome run_plan(const Plan& plan, const WeightSource& weights, const RunOptions& options) {
  executor::SessionOptions session_options = options.session;
  session_options.seed = options.seed;
  session_options.poison = true;
  executor::Session session(plan, weights, session_options);
  const auto contents = bind_inputs(session, plan, options);
  return take_steps(session, plan, options.steps);
}

std::optional<std::string> find_difference(const Outcome& expected, const Outcome& actual) {
  if (expected.losses.size() != actual.losses.size()) return "the number of steps";
  for (size_t i = 0; i < expected.losses.size(); ++i) {
    if (std::bit_cast<uint64_t>(expected.losses[i]) == std::bit_cast<uint64_t>(actual.losses[i])) continue;
    return "loss of step " + std::to_string(i) + ": " + std::to_string(actual.losses[i]) + " instead of " +
           std::to_string(expected.losses[i]);
  }
  if (expected.tensors.size() != actual.tensors.size()) return "the number of tensors";
  for (const auto& [name, content] : expected.tensors) {
    const auto other = actual.tensors.find(name);
    if (other == actual.tensors.end()) return name + " is missing";
    if (!(content == other->second)) return name;
  }
  return std::nullopt;
}

bool is_finite(const Outcome& outcome) {
  const auto finite = [](double number) { return std::isfinite(number); };
  if (!std::all_of(outcome.losses.begin(), outcome.losses.end(), finite)) return false;
  for (const auto& [name, content] : outcome.tensors) {
    if (content.dtype() != DType::f32) continue;
    for (int64_t i = 0; i < content.shape().elements(); ++i) {
      if (!std::isfinite(content.number(i))) return false;
    }
  }
  return true;
}

}  // namespace mpc::test
