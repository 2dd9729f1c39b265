#include "passes/describe_plan.h"

#include <algorithm>
#include <map>
#include <span>

#include <fmt/format.h>

#include "compiler/base/text.h"
#include "compiler/plan/host_memory.h"
#include "compiler/plan/simulate.h"
#include "passes/repetition.h"

namespace mpc {
namespace {

void describe_inputs(Plan& plan, const FrontGraphs& graphs, const PlanOptions& options) {
  plan.batch = graphs.batch;
  plan.microbatch_rows = graphs.microbatch_rows;
  for (PlanInput& input : plan.inputs) {
    const auto own = graphs.own_inputs.find(input.name);
    if (own != graphs.own_inputs.end()) input.role = own->second;
    if (input.role == PlanInput::Role::labels) input.ignored_label = options.ignored_label;
    const PlanValue& value = plan.values[input.value];
    const auto rows_match = [&](size_t v, int64_t rows) {
      return value.shapes[v].rank() > 0 && value.shapes[v][0] == rows;
    };
    input.is_batched = !value.per_step && graphs.batch > 0 && rows_match(0, graphs.microbatch_rows) &&
                       (!plan.has_tail || rows_match(1, plan.rows_of(plan.microbatches - 1)));
    if (input.role != PlanInput::Role::data) continue;
    std::vector<int64_t> shape = value.shapes[0].to_vector();
    if (input.is_batched) shape[0] = graphs.batch;
    plan.model.input_shapes.emplace_back(input.name, std::move(shape));
  }
}

void describe_outputs(Plan& plan, const FrontGraphs& graphs) {
  for (PlanOutput& output : plan.outputs) {
    if (output.combine != PlanOutput::Combine::concatenate || plan.microbatches == 1) continue;
    const PlanValue& value = plan.values[output.value];
    const bool has_rows = value.shapes[0].rank() > 0 && value.shapes[0][0] == graphs.microbatch_rows;
    if (has_rows) continue;
    throw Error(
        ErrorId::M045, fmt::format("output \"{}\"", output.name),
        fmt::format(
            "has shape {}: it has no batch dimension, so the results of {} micro-batches cannot be put together",
            to_string(value.shapes[0]), plan.microbatches),
        "use one micro-batch");
  }
}

void add_predictions(Plan& plan, const Attempt& attempt, const PlanOptions& options) {
  const Placement& placement = attempt.placement;
  plan.is_training = options.train;
  plan.precision = std::string(precision_name(options.precision));
  plan.objective = std::string(objective_name(options.objective));
  plan.objective_value = placement.objective_value;
  plan.objective_lower_bound = placement.lower_bound;
  plan.notes = attempt.placement.notes;
  plan.notes.insert(plan.notes.end(), attempt.notes.begin(), attempt.notes.end());
  const Timeline timeline = simulate(plan);
  plan.step_seconds = timeline.step_seconds;
  plan.bubble = timeline.bubble;
  for (const TimelineEntry& entry : timeline.entries) plan.instructions[entry.instruction].start_s = entry.start_s;
}

/// The layers of the model, where most of it is one block many times.
void add_repetition(Plan& plan, const Graph& graph) {
  const Repetition layers = find_repetition(graph);
  int forward = 0;
  for (int n = 0; n < graph.node_count(); ++n) forward += graph.node(NodeId(n)).phase == Phase::forward ? 1 : 0;
  if (2 * layers.nodes * layers.times < forward || layers.times < 2) return;
  plan.notes.push_back(fmt::format("the model is {} x a block of {} nodes (from {}), and {} others", layers.times,
                                   layers.nodes, graph.node(layers.first).name, forward - layers.nodes * layers.times));
}

/// Which device a stream of micro-batches waits for, and the node that it spends most time on.
void add_bottleneck(Plan& plan) {
  size_t slowest = 0;
  size_t busy_devices = 0;
  for (size_t d = 0; d < plan.devices.size(); ++d) {
    busy_devices += plan.devices[d].seconds > 0 ? 1 : 0;
    if (plan.devices[d].seconds > plan.devices[slowest].seconds) slowest = d;
  }
  if (busy_devices < 2) return;
  std::map<std::string, double> seconds_of;  // forward and backward of one ONNX node, per micro-batch
  for (const PlanNode& node : plan.nodes) {
    if (node.device == DeviceId(slowest) && !node.per_step) seconds_of[node.origin] += node.seconds.front();
  }
  if (seconds_of.empty()) return;
  const auto& [node, seconds] =
      *std::ranges::max_element(seconds_of, {}, [](const auto& entry) { return entry.second; });
  const PlanDevice& device = plan.devices[slowest];
  plan.notes.push_back(fmt::format("{} is the bottleneck: it works {} per step, {} of it on {}", device.name,
                                   seconds_text(device.seconds), seconds_text(seconds * plan.microbatches), node));
}

/// "a, b and 3 others are".
std::string names_of(const std::vector<std::string>& names) {
  constexpr size_t kMost = 4;
  const size_t listed = names.size() > kMost + 1 ? kMost : names.size();
  std::string text = names.front();
  for (size_t i = 1; i < listed; ++i) {
    const bool is_last = i + 1 == names.size();
    text += (is_last ? " and " : ", ") + names[i];
  }
  if (listed < names.size()) text += fmt::format(" and {} others", names.size() - listed);
  return text + (names.size() > 1 ? " are" : " is");
}

/// Idle devices are what was asked for where fewer are better, otherwise nobody expects them.
void add_idle(Plan& plan, const std::vector<std::string>& idle, Objective objective) {
  if (idle.empty()) return;
  const std::string are_idle = names_of(idle) + " idle: ";
  switch (objective) {
    case Objective::devices:
      plan.notes.push_back(are_idle + "the others hold the model");
      return;
    case Objective::latency:
      plan.notes.push_back(are_idle + "no way was found to shorten a micro-batch with more devices");
      return;
    case Objective::throughput:
    case Objective::memory:
      plan.warnings.push_back(are_idle + "the plan uses fewer devices than it was given");
      return;
  }
}

void add_warnings(Plan& plan, Objective objective) {
  std::vector<char> has_work(plan.devices.size(), 0);
  for (const PlanNode& node : plan.nodes) has_work[node.device.index()] = 1;
  double largest = 0;
  double total = 0;
  size_t busy = 0;
  std::string shares;
  std::vector<std::string> idle;
  for (size_t d = 0; d < plan.devices.size(); ++d) total += plan.devices[d].flops;
  for (size_t d = 0; d < plan.devices.size(); ++d) {
    const PlanDevice& device = plan.devices[d];
    if (is_host_memory(device)) continue;
    if (has_work[d] == 0) {
      idle.push_back(device.name);
      continue;
    }
    ++busy;
    largest = std::max(largest, device.flops);
    shares += fmt::format("{}{:.1f} %", shares.empty() ? "" : " / ", 100 * device.flops / total);
  }
  add_idle(plan, idle, objective);
  constexpr double kUnbalanced = 1.5;
  if (total > 0 && busy > 1 && largest * static_cast<double>(busy) > kUnbalanced * total)
    plan.warnings.push_back("the devices have unequal shares of the FLOPs: " + shares);
  if (busy > 1 && plan.one_device_seconds > 0 && plan.step_seconds > plan.one_device_seconds) {
    plan.warnings.push_back(
        fmt::format("one device alone would be faster ({} instead of {} predicted), if the model fits it",
                    seconds_text(plan.one_device_seconds), seconds_text(plan.step_seconds)));
  }
}

}  // namespace

void describe_plan(Plan& plan, const Attempt& attempt, const FrontGraphs& graphs, const PlanOptions& options) {
  describe_inputs(plan, graphs, options);
  describe_outputs(plan, graphs);
  add_predictions(plan, attempt, options);
  add_repetition(plan, graphs.main);
  add_bottleneck(plan);
  add_warnings(plan, options.objective);
  plan.warnings.insert(plan.warnings.end(), graphs.warnings.begin(), graphs.warnings.end());
  plan.notes.insert(plan.notes.end(), graphs.notes.begin(), graphs.notes.end());
}

}  // namespace mpc
