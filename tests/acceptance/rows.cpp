#include "tests/acceptance/rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include <doctest/doctest.h>

#include "api/reference_evaluator.h"
#include "compiler/base/random.h"
#include "compiler/plan/check.h"
#include "models/zoo.h"

namespace mpc::test {
namespace {

std::string written(std::string_view name, const std::map<std::string, int64_t>& sizes, const std::string& path) {
  zoo::Options options;
  options.sizes = sizes;
  zoo::write(name, options, path);
  return path;
}

uint64_t hash_of(std::string_view text) {
  uint64_t hash = 0;
  for (const char c : text) hash = mix_bits(hash ^ static_cast<unsigned char>(c));
  return hash;
}

/// [start, end) of every node that a device runs, ascending: one compute queue runs one node at a time.
std::vector<std::pair<double, double>> node_times(const Plan& plan, const std::vector<TimelineEntry>& entries,
                                                  int device) {
  std::vector<std::pair<double, double>> times;
  for (const TimelineEntry& entry : entries) {
    const Instruction& instruction = plan.instructions[entry.instruction];
    if (instruction.action != Action::run) continue;
    if (plan.queues[instruction.queue].device != DeviceId(device)) continue;
    times.emplace_back(entry.start_s, entry.end_s);
  }
  std::ranges::sort(times);
  return times;
}

}  // namespace

ZooModel::ZooModel(std::string_view name, const std::map<std::string, int64_t>& sizes)
    : model_(onnx_io::Model::load(written(name, sizes, folder_ / "model.onnx"))) {}

ZooModel::ZooModel(std::string_view name, const std::function<void(const std::string& path)>& edit)
    : model_([&] {
        const std::string path = written(name, {}, folder_ / "model.onnx");
        edit(path);
        return onnx_io::Model::load(path);
      }()) {}

PlanOptions pinned(const std::vector<std::pair<std::string, int>>& pins) {
  PlanOptions options;
  for (const auto& [pattern, device] : pins) options.pins.push_back({pattern, device});
  return options;
}

PlanOptions training(const std::vector<std::pair<std::string, int>>& pins, LossKind loss, std::string_view optimizer) {
  PlanOptions options = pinned(pins);
  options.train = true;
  options.loss = loss;
  options.optimizer.optimizer = parse_optimizer(optimizer);
  return options;
}

PlanOptions on_one_device(PlanOptions options) {
  options.pins.clear();
  options.schedule = ScheduleKind::sequential;
  return options;
}

Cluster cpu_devices(int count, std::string_view memory) {
  Cluster cluster = uniform_cluster(*find_device_kind("cpu"), count);
  if (!memory.empty()) cap_memory(cluster, memory);
  return cluster;
}

std::variant<Plan, Infeasible> try_plan(const ZooModel& model, const Cluster& cluster, const PlanOptions& options) {
  return make_plan(model.model(), cluster, options, ReferenceEvaluator());
}

Plan plan_of(const ZooModel& model, const Cluster& cluster, const PlanOptions& options) {
  auto result = try_plan(model, cluster, options);
  REQUIRE(std::holds_alternative<Plan>(result));
  check_plan(std::get<Plan>(result));
  return std::get<Plan>(std::move(result));
}

Plan plan_of(const ZooModel& model, int devices, const PlanOptions& options) {
  return plan_of(model, cpu_devices(devices), options);
}

std::vector<Sent> sent_in_a_step(const Plan& plan) {
  std::vector<Sent> result;
  for (const PlanTransfer& transfer : plan.transfers) {
    Sent sent{static_cast<int>(transfer.from.index()), static_cast<int>(transfer.to.index()), 0,
              transfer.phase != PlanPhase::forward};
    const int times = transfer.per_step ? 1 : plan.microbatches;
    for (int m = 0; m < times; ++m)
      sent.bytes += plan.transfer_bytes(transfer, plan.variant_of(transfer.per_step ? kPerStep : m));
    result.push_back(sent);
  }
  return result;
}

std::string to_text(const std::vector<Sent>& sent) {
  std::string text;
  for (const Sent& s : sent) {
    text += (s.is_backward ? "backward " : "forward ") + std::to_string(s.from) + "->" + std::to_string(s.to) + " " +
            std::to_string(s.bytes) + "\n";
  }
  return text;
}

int64_t fed_bytes(const Plan& plan, std::string_view input, int device) {
  int64_t bytes = 0;
  for (const Instruction& instruction : plan.instructions) {
    if (instruction.action != Action::feed || plan.inputs[instruction.index].name != input) continue;
    if (plan.queues[instruction.queue].device != DeviceId(device)) continue;
    bytes += plan.value_bytes(plan.inputs[instruction.index].value, plan.variant_of(instruction.microbatch));
  }
  return bytes;
}

int device_of(const Plan& plan, std::string_view node) {
  // A node that was fused into another one is among that one's origins.
  const std::string origin = std::string(node) + " (";
  const auto is_it = [&](const PlanNode& other) {
    if (other.name == node) return true;
    if (other.attributes.empty() || !other.attributes.front().has("origins")) return false;
    return std::ranges::any_of(other.attributes.front().texts("origins"),
                               [&](const std::string& text) { return text.starts_with(origin); });
  };
  const auto found = std::ranges::find_if(plan.nodes, is_it);
  INFO("node ", std::string(node));
  REQUIRE(found != plan.nodes.end());
  return static_cast<int>(found->device.index());
}

bool has_node(const Plan& plan, std::string_view part) {
  return std::ranges::any_of(plan.nodes,
                             [&](const PlanNode& node) { return node.name.find(part) != std::string::npos; });
}

std::vector<int> devices_holding(const Plan& plan, std::string_view value) {
  std::set<int> devices;
  for (const PlanSlice& slice : plan.slices) {
    if (slice.value != kNone && plan.values[slice.value].name == value)
      devices.insert(static_cast<int>(slice.device.index()));
  }
  return {devices.begin(), devices.end()};
}

Data::Data(const Plan& plan, int64_t label_bound, uint64_t seed) {
  for (const PlanInput& input : plan.inputs) {
    if (input.role == PlanInput::Role::step || input.role == PlanInput::Role::learning_rate_scale) continue;
    const PlanValue& value = plan.values[input.value];
    Shape shape = value.shapes[0];
    if (input.is_batched) shape.set(0, plan.batch);
    std::vector<std::byte> bytes(static_cast<size_t>(byte_size(shape, value.dtype)));
    const auto width = static_cast<size_t>(dtype_bytes(value.dtype));
    uint64_t state = hash_of(input.name) ^ mix_bits(seed);
    for (size_t i = 0; i < bytes.size(); i += width) {
      const uint64_t word = mix_bits(++state);
      if (value.dtype == DType::i64) {
        write_integer(value.dtype, &bytes[i], static_cast<int64_t>(word % static_cast<uint64_t>(label_bound)));
      } else {
        write_number(value.dtype, &bytes[i], 2.0 * unit_float(static_cast<uint32_t>(word)) - 1.0);
      }
    }
    entries_.push_back({input.name, value.dtype, shape, std::move(bytes)});
  }
}

void Data::bind(executor::Session& session) const {
  for (const Entry& entry : entries_) session.bind(entry.input, entry.dtype, entry.shape, entry.bytes);
}

executor::SessionOptions poisoned() {
  executor::SessionOptions options;
  options.poison = true;
  return options;
}

Outcome run(const ZooModel& model, const Plan& plan, int steps, int64_t label_bound) {
  executor::Session session(plan, model.model().weights(), poisoned());
  const Data data(plan, label_bound);
  data.bind(session);
  return take_steps(session, plan, steps);
}

double largest_error(const Literal& actual, const Literal& expected) {
  double largest = 0;
  double error = 0;
  for (int64_t i = 0; i < expected.shape().elements(); ++i) {
    largest = std::max(largest, std::abs(expected.number(i)));
    const double difference = std::abs(expected.number(i) - actual.number(i));
    if (std::isnan(difference)) return difference;
    error = std::max(error, difference);
  }
  return largest > 0 ? error / largest : std::numeric_limits<double>::infinity();
}

void check_same_bits(const Outcome& expected, const Outcome& actual) {
  CHECK(!expected.tensors.empty());
  CHECK(is_finite(expected));
  const auto difference = find_difference(expected, actual);
  CHECK_MESSAGE(!difference, difference.value_or(""));
}

Plan check_same_as_one_device(const ZooModel& model, int devices, const PlanOptions& options, int steps,
                              int64_t label_bound) {
  const Plan alone = plan_of(model, 1, on_one_device(options));
  const Plan plan = plan_of(model, devices, options);
  check_same_bits(run(model, alone, steps, label_bound), run(model, plan, steps, label_bound));
  return plan;
}

double overlap_s(const Plan& plan, const std::vector<TimelineEntry>& entries, int a, int b) {
  double overlap = 0;
  const auto times_b = node_times(plan, entries, b);
  for (const auto& [start, end] : node_times(plan, entries, a)) {
    for (const auto& [start_b, end_b] : times_b)
      overlap += std::max(0.0, std::min(end, end_b) - std::max(start, start_b));
  }
  return overlap;
}

double busy_s(const Plan& plan, const std::vector<TimelineEntry>& entries, int device) {
  double busy = 0;
  for (const auto& [start, end] : node_times(plan, entries, device)) busy += end - start;
  return busy;
}

std::vector<TimelineEntry> measured_entries(const executor::Session& session) {
  std::vector<TimelineEntry> entries;
  for (const executor::MeasuredEntry& entry : session.measured())
    entries.push_back({entry.instruction, entry.start_s, entry.end_s});
  return entries;
}

}  // namespace mpc::test
