#include "mpc/profile.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <tuple>

#include <fmt/format.h>

#include "api/facts.h"
#include "api/impl.h"
#include "api/table.h"
#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/json.h"
#include "compiler/base/text.h"
#include "compiler/cost/profile.h"
#include "compiler/ops/builder.h"
#include "executor/measure_kernel.h"
#include "executor/session.h"
#include "mpc/compile.h"

// Measures a machine. Operators: every distinct node of the models given is timed alone, with the kernel that a session
// would take. A launch and a link: by sessions of small plans, because they are what the executor makes of them.

namespace mpc {
namespace {

using executor::NodeSpec;

constexpr int64_t kUnbounded = int64_t{1} << 50;  // bytes: a node is timed alone, the model need not fit

/// One node to time, with what its sample is filed under.
struct Candidate {
  OpKey key;
  Attributes attributes;
  NodeSpec spec;  // its attributes are set when it is timed: candidates move
  double flops = 0;
  double bytes = 0;
  int64_t workspace_bytes = 0;
  executor::MeasureOptions options;
};

/// What tells two nodes apart for their kernel.
std::string identity(const Candidate& candidate) {
  std::string text = fmt::format("{} {} {}", op_name(candidate.key.op), candidate.key.is_training, candidate.flops);
  for (const auto* list : {&candidate.spec.inputs, &candidate.spec.outputs}) {
    for (const NodeSpec::Operand& operand : *list) {
      text += operand.is_present
                  ? fmt::format(" {}{}", type_text(operand.dtype, operand.shape), operand.is_constant ? "c" : "")
                  : std::string(" -");
    }
    text += ";";
  }
  return text;
}

/// What integers a node may read: rows of the table that a Gather takes them from, classes of a loss, the number of an
/// update. Otherwise zeros, which are in every range.
executor::MeasureOptions integers_of(OpKind op, const Attributes& attributes, const NodeSpec& spec) {
  executor::MeasureOptions options;
  switch (op) {
    case OpKind::Gather:
      options.integers = spec.inputs[0].shape[static_cast<int>(attributes.integer("axis"))];
      break;
    case OpKind::GatherGrad:
      options.integers = spec.outputs[0].shape[static_cast<int>(attributes.integer("axis"))];
      break;
    case OpKind::SgdUpdate:
    case OpKind::MomentumUpdate:
    case OpKind::AdamUpdate:
      options.least_integer = 1;
      break;
    case OpKind::SoftmaxCrossEntropyLoss:
    case OpKind::SoftmaxCrossEntropyLossGrad:
    case OpKind::NegativeLogLikelihoodLoss:
    case OpKind::NegativeLogLikelihoodLossGrad:
      for (const NodeSpec::Operand& operand : spec.inputs) {
        if (operand.is_present && is_float(operand.dtype) && operand.shape.rank() > 1)
          options.integers = operand.shape[1];
      }
      break;
    default:
      break;
  }
  return options;
}

class Collector {
 public:
  explicit Collector(int threads) : threads_(threads) {}

  void add(const Plan& plan) {
    std::vector<bool> is_updated(plan.values.size(), false);
    for (const PlanUpdate& update : plan.updates) is_updated[update.persistent] = true;
    const auto operand = [&](PlanIndex index) -> NodeSpec::Operand {
      if (index == kNone) return {};
      const PlanValue& value = plan.values[index];
      const bool is_fixed = value.kind == PlanValueKind::constant || value.kind == PlanValueKind::parameter;
      return {value.dtype, value.shapes.front(), true, is_fixed && !is_updated[index]};
    };
    for (const PlanNode& node : plan.nodes) {
      Candidate candidate;
      candidate.attributes = node.attributes.front();
      candidate.spec.op = node.op;
      candidate.spec.threads = threads_;
      for (const PlanIndex input : node.inputs) candidate.spec.inputs.push_back(operand(input));
      for (const PlanIndex output : node.outputs) candidate.spec.outputs.push_back(operand(output));
      NarrowestFloat narrowest;
      for (const auto* list : {&node.inputs, &node.outputs}) {
        for (const PlanIndex index : *list) {
          if (index == kNone) continue;
          candidate.bytes += static_cast<double>(plan.value_bytes(index, 0));
          narrowest.add(plan.values[index].dtype);
        }
      }
      candidate.key = {node.op, narrowest.arithmetic(false), !plan.updates.empty()};
      candidate.flops = node.flops.front();
      candidate.workspace_bytes = node.workspace_bytes;
      candidate.options = integers_of(node.op, candidate.attributes, candidate.spec);
      found_.emplace(identity(candidate), std::move(candidate));
    }
  }

  std::map<std::string, Candidate>& found() { return found_; }

 private:
  int threads_;
  std::map<std::string, Candidate> found_;
};

double time_of(Candidate& candidate) {
  candidate.spec.attributes = &candidate.attributes;
  return executor::measure_host_kernel(candidate.spec, candidate.workspace_bytes, candidate.options);
}

/// A node of its own, for rates that no model need contain.
Candidate alone(OpKind op, DType dtype, const std::vector<Shape>& shapes) {
  Graph graph;
  std::vector<ValueId> inputs;
  for (const Shape& shape : shapes) inputs.push_back(graph.add_input("x", dtype, shape));
  const NodeId id = append(graph, op, inputs, {}, {"node", "", Phase::forward, {}, {}});
  Candidate candidate;
  candidate.key.op = op;
  candidate.attributes = graph.node(id).attributes;
  candidate.spec.op = op;
  for (const auto* list : {&graph.node(id).inputs, &graph.node(id).outputs}) {
    for (const ValueId value : *list) {
      NodeSpec::Operand operand{graph.value(value).dtype, graph.value(value).shape, true, false};
      (list == &graph.node(id).inputs ? candidate.spec.inputs : candidate.spec.outputs).push_back(operand);
    }
  }
  const OpQuantities quantities = quantities_of(graph, id);
  candidate.flops = quantities.flops;
  candidate.workspace_bytes = quantities.workspace_bytes;
  return candidate;
}

/// FLOPs per second of a square product.
double product_rate(DType dtype, int64_t size, int threads) {
  Candidate candidate = alone(OpKind::MatMul, dtype, {Shape{size, size}, Shape{size, size}});
  candidate.spec.threads = threads;
  return candidate.flops / time_of(candidate);
}

void measure_rates(int threads, DeviceRates& rates) {
  constexpr int64_t kLarge = 768;  // operands of 7 MiB
  // In f64 there is only the plain kernel, an order of magnitude slower, and so is measuring it.
  constexpr int64_t kSmall = 192;
  rates.flops_f32 = product_rate(DType::f32, kLarge, threads);
  rates.flops_f64 = product_rate(DType::f64, kSmall, threads);
  rates.flops_f16 = product_rate(DType::bf16, kLarge, threads);
  constexpr int64_t kElements = int64_t{1} << 24;  // 64 MiB in, 64 MiB out: more than caches hold
  Candidate stream = alone(OpKind::Relu, DType::f32, {Shape{kElements}});
  stream.spec.threads = threads;
  rates.bytes_per_second = 2.0 * 4.0 * static_cast<double>(kElements) / time_of(stream);
}

/// Plans without weights.
class NoWeights : public WeightSource {
 public:
  void read(const std::string& name, int64_t, std::span<std::byte>) const override {
    throw Error(ErrorId::M700, name, "a plan without weights asked for one");
  }
};

/// A chain of `length` nodes on `elements` numbers, the last of them on device `last_device`.
Plan chain_plan(const Cluster& cluster, int length, int64_t elements, int last_device) {
  FrontGraphs graphs;
  Graph& graph = graphs.main;
  graph.name = "chain";
  graph.stage = Stage::canonical;
  ValueId value = graph.add_input("x", DType::f32, Shape{elements});
  graph.inputs = {value};
  PlanOptions options;
  for (int i = 0; i < length; ++i) {
    const std::string name = fmt::format("n{}", i);
    const NodeId id = append(graph, OpKind::Neg, {value}, {}, {name, "", Phase::forward, {}, {}});
    value = graph.node(id).outputs.front();
    options.assignment[name] = i + 1 == length ? last_device : 0;
  }
  graph.outputs = {{"y", value}};
  auto outcome = make_plan(graphs, cluster, options);
  Plan* plan = std::get_if<Plan>(&outcome);
  MPC_CHECK(plan != nullptr, "a chain of small nodes fits nowhere");
  return std::move(*plan);
}

/// Wall times on a busy machine are its own plus those of others: the least of many is nearest to its own.
double least(const std::vector<double>& values) {
  return *std::ranges::min_element(values);
}

std::vector<double> chain_seconds(const Plan& plan, int64_t elements, int steps,
                                  const std::function<double(executor::Session&, double)>& seconds_of) {
  executor::SessionOptions options;
  options.record_timeline = true;
  const NoWeights weights;
  executor::Session session(plan, weights, options);
  const std::vector<float> content(static_cast<size_t>(elements), 1.0F);
  session.bind("x", DType::f32, Shape{elements}, std::as_bytes(std::span(content)));
  std::vector<double> seconds;
  for (int i = -2; i < steps; ++i) {
    const double step = session.step().seconds;
    if (i >= 0) seconds.push_back(seconds_of(session, step));
  }
  return seconds;
}

/// What the executor adds to a kernel: two chains whose length differs, so that what a step costs drops out.
double launch_seconds(const Cluster& cluster) {
  constexpr int kShort = 16;
  constexpr int kLong = 528;
  constexpr int64_t kElements = 16;
  constexpr int kSteps = 100;
  const auto whole = [](executor::Session&, double step) { return step; };
  const auto seconds = [&](int length) {
    return least(chain_seconds(chain_plan(cluster, length, kElements, 0), kElements, kSteps, whole));
  };
  return std::max(0.0, (seconds(kLong) - seconds(kShort)) / (kLong - kShort));
}

/// From the end of the node that makes a value to the start of the one that reads its copy.
double transfer_seconds_of(executor::Session& session) {
  const Plan& plan = session.plan();
  std::array<executor::MeasuredEntry, 2> runs{};
  for (const executor::MeasuredEntry& entry : session.measured()) {
    const Instruction& instruction = plan.instructions[entry.instruction];
    if (instruction.action != Action::run) continue;
    runs[plan.nodes[instruction.index].device.index()] = entry;
  }
  return std::max(0.0, runs[1].start_s - runs[0].end_s);
}

LinkProfile measure_link(const Cluster& cluster) {
  const auto seconds = [&](int64_t elements, int steps) {
    const Plan plan = chain_plan(cluster, 2, elements, 1);
    return least(chain_seconds(plan, elements, steps,
                               [](executor::Session& session, double) { return transfer_seconds_of(session); }));
  };
  constexpr int64_t kFew = 64;
  constexpr int64_t kMany = int64_t{1} << 22;  // 16 MiB
  const double latency = seconds(kFew, 200);
  const double large = seconds(kMany, 50);
  // On a machine that is never quiet the small copy may seem as slow as the large one: no more than half of that is
  // taken for latency.
  const double copying = std::max(large - latency, large / 2);
  return {cluster.devices[0].backend, cluster.devices[1].backend, 4.0 * static_cast<double>(kMany) / copying,
          std::min(latency, large / 2)};
}

/// "model name : ..." of the system's list of processors.
std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

/// @throws Error(M046) naming the first device that is not the host's.
void require_measurable(const Cluster& cluster) {
  for (const Device& device : cluster.devices) {
    if (device.backend == "cpu") continue;
    throw Error(ErrorId::M046, "device " + device.name,
                "cannot be measured by this version of mpc: only CPU devices can",
                "a cluster file states the rates of others (--cluster)");
  }
}

v1::CompileOptions options_of(const v1::ProfileModel& row) {
  v1::CompileOptions options;
  options.bindings = row.bindings;
  if (row.is_training) {
    options.training.emplace();
    options.training->optimizer = "adam";
    options.microbatches = 1;
  }
  options.precision = row.precision;
  return options;
}

}  // namespace

struct v1::Profile::Impl {
  mpc::Profile profile;
  std::string where;
};

namespace v1 {

Profile Profile::load(const std::string& path) {
  return Profile(std::make_shared<Impl>(Impl{parse_profile(read_text_file(path, kMaxJsonBytes), path), path}));
}

Profile Profile::measure(const Cluster& cluster, const std::vector<ProfileModel>& models,
                         const std::function<void(int64_t, int64_t, const std::string&)>& progress) {
  mpc::Cluster measured = cluster.impl().cluster;
  require_measurable(measured);
  const int threads = measured.devices.front().threads;
  mpc::Profile profile;
  DeviceProfile& device = profile.devices.emplace_back();
  device.backend = measured.devices.front().backend;
  device.hardware = processor_name();

  mpc::Cluster one = measured;
  one.devices.resize(1);
  one.devices.front().memory_bytes = kUnbounded;
  link_all(one);
  const Cluster compile_for(std::make_shared<Cluster::Impl>(Cluster::Impl{one}));
  Collector collector(threads);
  for (const ProfileModel& row : models)
    collector.add(compile(row.model, compile_for, options_of(row)).value().impl().plan);

  measure_rates(threads, device.rates);
  device.rates.launch_s = launch_seconds(one);
  // Feeding an input and fetching an output are copies like those between two devices of the host.
  if (measured.devices.size() > 1) profile.links.push_back(measure_link(measured));
  device.rates.host_bytes_per_second =
      profile.links.empty() ? device.rates.bytes_per_second / 2 : profile.links.front().bytes_per_second;
  int64_t done = 0;
  const auto total = static_cast<int64_t>(collector.found().size());
  for (auto& [name, candidate] : collector.found()) {
    if (progress) progress(done++, total, std::string(op_name(candidate.key.op)));
    device.add(candidate.key, {candidate.flops, candidate.bytes, std::max(time_of(candidate), 1e-9)});
  }
  return Profile(std::make_shared<Impl>(Impl{std::move(profile), "the profile"}));
}

void Profile::save(const std::string& path) const {
  write_file_atomic(path, json());
}

std::string Profile::json() const {
  return print_profile(impl().profile);
}

std::string Profile::report_text() const {
  std::string text;
  for (const DeviceProfile& device : impl().profile.devices) {
    const DeviceRates& rates = device.rates;
    text += fmt::format("{} ({}): f32 {}/s, f64 {}/s, f16 {}/s in products; memory {}/s; launch {}\n", device.backend,
                        escaped(device.hardware, 100), flops_text(rates.flops_f32), flops_text(rates.flops_f64),
                        flops_text(rates.flops_f16), bytes_text(static_cast<int64_t>(rates.bytes_per_second)),
                        seconds_text(rates.launch_s));
    api::Table table({"op", "arithmetic", "step", "timed", "FLOP/s", "bytes/s"}, {1, 2});
    for (const auto& [key, samples] : device.samples()) {
      double flops = 0;
      double bytes = 0;
      double seconds = 0;
      for (const OpSample& sample : samples) {
        flops += sample.flops;
        bytes += sample.bytes;
        seconds += sample.seconds;
      }
      table.add({std::string(op_name(key.op)), std::string(arithmetic_name(key.arithmetic)),
                 key.is_training ? "training" : "inference", count_text(static_cast<int64_t>(samples.size())),
                 flops_text(flops / seconds), bytes_text(static_cast<int64_t>(bytes / seconds))});
    }
    if (!table.empty()) text += table.text();
  }
  for (const LinkProfile& link : impl().profile.links) {
    text += fmt::format("{} to {}: {}/s after {}\n", link.from, link.to,
                        bytes_text(static_cast<int64_t>(link.bytes_per_second)), seconds_text(link.latency_s));
  }
  return text;
}

Cluster Cluster::with_profile(const Profile& profile) const {
  mpc::Cluster measured = impl().cluster;
  apply_profile(profile.impl().profile, profile.impl().where, measured);
  return Cluster(std::make_shared<Impl>(Impl{std::move(measured)}));
}

}  // namespace v1
}  // namespace mpc
