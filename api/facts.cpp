#include "api/facts.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "compiler/plan/host_memory.h"
#include "compiler/plan/live_bytes.h"

namespace mpc::api {
namespace {

/// What `quantity` (one number per variant) adds up to over a step.
double step_sum(const Plan& plan, const std::vector<double>& quantity, bool per_step) {
  if (quantity.empty()) return 0;
  if (per_step) return quantity.front();
  double sum = 0;
  for (int32_t m = 0; m < plan.microbatches; ++m) {
    sum += quantity[std::min(quantity.size() - 1, static_cast<size_t>(plan.variant_of(m)))];
  }
  return sum;
}

int64_t step_bytes_of(const Plan& plan, PlanIndex value, bool per_step) {
  if (per_step) return plan.value_bytes(value, 0);
  int64_t bytes = 0;
  for (int32_t m = 0; m < plan.microbatches; ++m) bytes += plan.value_bytes(value, plan.variant_of(m));
  return bytes;
}

std::string direction(const Plan& plan, const PlanTransfer& transfer) {
  if (is_host_memory(plan.devices[transfer.to.index()])) return "offload";
  if (is_host_memory(plan.devices[transfer.from.index()])) return "fetch";
  if (transfer.phase == PlanPhase::forward) return "forward";
  return transfer.phase == PlanPhase::update ? "update" : "backward";
}

/// The first stage that a device spends time in. What it makes of labels and positions waits for no other device, and
/// is no stage of its own.
int first_stage(const std::map<int, double>& seconds_in_stage) {
  constexpr double kLeastShare = 0.05;
  double total = 0;
  for (const auto& [stage, seconds] : seconds_in_stage) total += seconds;
  for (const auto& [stage, seconds] : seconds_in_stage) {
    if (seconds >= kLeastShare * total) return stage;
  }
  return 0;
}

}  // namespace

double step_flops(const Plan& plan, const PlanNode& node) {
  return step_sum(plan, node.flops, node.per_step);
}
double step_seconds(const Plan& plan, const PlanNode& node) {
  return step_sum(plan, node.seconds, node.per_step);
}

int64_t step_bytes(const Plan& plan, const PlanTransfer& transfer) {
  int64_t bytes = 0;
  for (const PlanIndex value : transfer.sources) bytes += step_bytes_of(plan, value, transfer.per_step);
  return bytes;
}

std::string onnx_name(const std::string& origin) {
  const size_t bracket = origin.rfind(" (");
  return bracket == std::string::npos ? origin : origin.substr(0, bracket);
}

std::vector<PlanIndex> producers_of(const Plan& plan) {
  std::vector<PlanIndex> producers(plan.values.size(), kNone);
  for (PlanIndex n = 0; n < plan.nodes.size(); ++n) {
    for (const PlanIndex value : plan.nodes[n].outputs) {
      if (value != kNone) producers[value] = n;
    }
  }
  return producers;
}

std::vector<PlanIndex> originals_of(const Plan& plan) {
  std::vector<PlanIndex> originals(plan.values.size());
  for (PlanIndex v = 0; v < originals.size(); ++v) originals[v] = v;
  for (const PlanTransfer& transfer : plan.transfers) {
    for (size_t i = 0; i < transfer.sources.size(); ++i) originals[transfer.destinations[i]] = transfer.sources[i];
  }
  // A copy of a copy leads back in as many steps as there are copies; the checker has proved that no cycle is there.
  for (PlanIndex v = 0; v < originals.size(); ++v) {
    while (originals[originals[v]] != originals[v]) originals[v] = originals[originals[v]];
  }
  return originals;
}

std::vector<int> stage_of_nodes(const Plan& plan) {
  const std::vector<PlanIndex> producers = producers_of(plan);
  const std::vector<PlanIndex> originals = originals_of(plan);
  std::vector<int> stages(plan.nodes.size(), 0);
  for (PlanIndex n = 0; n < plan.nodes.size(); ++n) {
    for (const PlanIndex input : plan.nodes[n].inputs) {
      if (input == kNone) continue;
      const PlanIndex producer = producers[originals[input]];
      if (producer == kNone || producer >= n) continue;
      const bool changes = plan.nodes[producer].device != plan.nodes[n].device;
      stages[n] = std::max(stages[n], stages[producer] + (changes ? 1 : 0));
    }
  }
  return stages;
}

std::vector<v1::DevicePlan> device_plans(const Plan& plan) {
  std::vector<v1::DevicePlan> rows(plan.devices.size());
  for (size_t d = 0; d < rows.size(); ++d) {
    const PlanDevice& device = plan.devices[d];
    v1::DevicePlan& row = rows[d];
    row.id = static_cast<int>(d);
    row.name = device.name;
    row.hardware = device.hardware;
    row.backend = device.backend;
    row.parameter_bytes = device.memory.parameter_bytes;
    row.gradient_bytes = device.memory.gradient_bytes;
    row.optimizer_bytes = device.memory.optimizer_bytes;
    row.activation_bytes = device.memory.activation_bytes;
    row.workspace_bytes = device.memory.workspace_bytes;
    row.staging_bytes = device.memory.staging_bytes;
    row.peak_bytes = device.arena_bytes;
    row.capacity_bytes = device.capacity_bytes;
    row.flops = device.flops;
    row.seconds = device.seconds;
  }
  const std::vector<int64_t> live = most_live_bytes(plan);
  for (size_t d = 0; d < rows.size(); ++d) rows[d].live_bytes = live[d];
  const std::vector<int> stages = stage_of_nodes(plan);
  std::vector<std::map<int, double>> seconds_in_stage(rows.size());
  for (size_t n = 0; n < plan.nodes.size(); ++n) {
    if (plan.nodes[n].phase != PlanPhase::forward) continue;
    const size_t d = plan.nodes[n].device.index();
    rows[d].nodes += 1;
    if (plan.nodes[n].per_step) continue;  // made of weights alone: it waits for no other device
    seconds_in_stage[d][stages[n]] += plan.nodes[n].seconds.front();
  }
  for (size_t d = 0; d < rows.size(); ++d) rows[d].stage = first_stage(seconds_in_stage[d]);
  std::vector<std::set<std::string>> counted(rows.size());
  for (const PlanSlice& slice : plan.slices) {
    if (slice.value == kNone || plan.values[slice.value].kind != PlanValueKind::parameter) continue;
    const PlanValue& value = plan.values[slice.value];
    const size_t d = slice.device.index();
    // A weight that a device has in two forms is one parameter of the model.
    const auto count = [&](const std::string& source, const Shape& shape) {
      if (counted[d].insert(source).second) rows[d].parameters += shape.elements();
    };
    if (value.recipe.is_empty()) count(value.source, value.shapes.front());
    for (const WeightPart& part : value.recipe.parts) count(part.source, part.shape);
  }
  return rows;
}

std::vector<v1::TransferPlan> transfer_plans(const Plan& plan) {
  std::vector<v1::TransferPlan> rows;
  const std::vector<PlanIndex> originals = originals_of(plan);
  for (const PlanTransfer& transfer : plan.transfers) {
    const double seconds = step_sum(plan, transfer.seconds, transfer.per_step);
    const double all_bytes = static_cast<double>(std::max<int64_t>(1, step_bytes(plan, transfer)));
    for (const PlanIndex value : transfer.sources) {
      v1::TransferPlan row;
      row.value = plan.values[originals[value]].name;
      row.from = static_cast<int>(transfer.from.index());
      row.to = static_cast<int>(transfer.to.index());
      row.bytes = step_bytes_of(plan, value, transfer.per_step);
      row.phase = direction(plan, transfer);
      row.seconds = seconds * static_cast<double>(row.bytes) / all_bytes;
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

std::vector<std::string> origins_of(const PlanNode& node) {
  if (node.attributes.empty() || !node.attributes.front().has("origins")) return {node.origin};
  const std::vector<std::string>& origins = node.attributes.front().texts("origins");
  return origins.empty() ? std::vector<std::string>{node.origin} : origins;
}

std::map<std::string, int> assignment_of(const Plan& plan) {
  std::map<std::string, int> devices;
  for (const PlanNode& node : plan.nodes) {
    if (node.phase != PlanPhase::forward || node.origin.empty()) continue;
    for (const std::string& origin : origins_of(node))
      devices.emplace(onnx_name(origin), static_cast<int>(node.device.index()));
  }
  for (const PlanSlice& slice : plan.slices) {  // nodes whose work is done when weights are loaded
    if (slice.value == kNone) continue;
    for (const std::string& origin : plan.values[slice.value].recipe.origins)
      devices.emplace(onnx_name(origin), static_cast<int>(slice.device.index()));
  }
  return devices;
}

int64_t value_bound(const Plan& plan, PlanIndex value) {
  constexpr int64_t kUnknown = 2;
  std::vector<bool> carries(plan.values.size(), false);  // the same integers, moved, reshaped or cast
  carries[value] = true;
  const std::vector<PlanIndex> originals = originals_of(plan);
  std::optional<int64_t> bound;
  const auto lower = [&](int64_t limit) { bound = std::min(bound.value_or(limit), limit); };
  for (const PlanNode& node : plan.nodes) {
    const auto reads = [&](size_t i) {
      return i < node.inputs.size() && node.inputs[i] != kNone && carries[originals[node.inputs[i]]];
    };
    const auto shape = [&](size_t i) { return plan.values[node.inputs[i]].shapes.front(); };
    switch (node.op) {
      case OpKind::Gather:
        if (reads(1) && !node.attributes.empty())
          lower(shape(0)[static_cast<int>(node.attributes.front().integer("axis"))]);
        break;
      case OpKind::SoftmaxCrossEntropyLoss:
      case OpKind::NegativeLogLikelihoodLoss:
        if (reads(1) && shape(0).rank() > 1) lower(shape(0)[1]);
        break;
      case OpKind::Reshape:
      case OpKind::Transpose:
      case OpKind::Cast:
      case OpKind::Expand:
      case OpKind::Slice:
        if (reads(0) && node.outputs.front() != kNone) carries[node.outputs.front()] = true;
        break;
      default:
        break;
    }
  }
  return std::max<int64_t>(1, bound.value_or(kUnknown));
}

std::vector<int64_t> batch_shape(const Plan& plan, PlanIndex value, bool is_batched) {
  const PlanValue& v = plan.values[value];
  std::vector<int64_t> shape = v.shapes.front().to_vector();
  if (!is_batched || shape.empty()) return shape;
  shape[0] = 0;
  for (int32_t m = 0; m < plan.microbatches; ++m) {
    shape[0] += v.shapes[std::min(v.shapes.size() - 1, static_cast<size_t>(plan.variant_of(m)))][0];
  }
  return shape;
}

}  // namespace mpc::api
