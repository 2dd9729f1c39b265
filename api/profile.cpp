#include "mpc/profile.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <map>
#include <optional>

#include <fmt/format.h>

#include "api/facts.h"
#include "api/impl.h"
#include "api/node_timer.h"
#include "api/profile_nodes.h"
#include "api/table.h"
#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/json.h"
#include "compiler/base/text.h"
#include "compiler/cost/profile.h"
#include "compiler/ops/builder.h"
#include "executor/device/plugin.h"
#include "executor/host/caches.h"
#include "executor/session.h"
#include "mpc/compile.h"

// Measures a machine. Operators: every distinct node of the models given is timed alone, with the kernel that a session
// would take. A launch and a link: by sessions of small plans, because they are what the executor makes of them.

namespace mpc {
namespace {

using api::NodeTimer;
using api::ProfileNode;

constexpr int64_t kUnbounded = int64_t{1} << 50;  // bytes: a node is timed alone, the model need not fit

/// Seconds of a product of two square matrices; its FLOPs are 2 size^3.
double product_seconds(NodeTimer& device, DType dtype, bool is_tf32, int64_t size) {
  ProfileNode node = api::node_alone(OpKind::MatMul, dtype, {Shape{size, size}, Shape{size, size}});
  if (is_tf32) node.key.arithmetic = Arithmetic::tf32;
  return device.seconds_of(node).value();
}

/// Seconds of reading and writing as many numbers of f32.
double stream_seconds(NodeTimer& device, int64_t elements) {
  const ProfileNode node = api::node_alone(OpKind::Relu, DType::f32, {Shape{elements}});
  return device.seconds_of(node).value();
}

/// How many a device does per second of work that `work_of(size)` counts.
struct SizedWork {
  int64_t least;
  int64_t most;  // a GPU is asked for twice as much until it is busy for a millisecond, or this
  std::function<double(int64_t size)> work_of;
  std::function<double(int64_t size)> seconds_of;

  double rate(bool is_gpu) const {
    constexpr double kBusySeconds = 1e-3;
    int64_t size = least;
    double seconds = seconds_of(size);
    while (is_gpu && size < most && seconds < kBusySeconds) {
      size *= 2;
      seconds = seconds_of(size);
    }
    return work_of(size) / seconds;
  }
};

void measure_rates(NodeTimer& device, DeviceRates& rates) {
  const bool is_gpu = device.is_gpu();
  const auto product = [&](DType dtype, int64_t least, bool is_tf32 = false) {
    const auto flops = [](int64_t size) { return 2.0 * std::pow(static_cast<double>(size), 3); };
    const auto seconds = [&](int64_t size) { return product_seconds(device, dtype, is_tf32, size); };
    constexpr int64_t kMost = 8192;
    return SizedWork{least, kMost, flops, seconds}.rate(is_gpu);
  };
  constexpr int64_t kLarge = 768;  // operands of 7 MiB
  // On a CPU there is only the plain kernel in f64, an order of magnitude slower, and so is measuring it.
  constexpr int64_t kSmall = 192;
  rates.flops_f32 = product(DType::f32, is_gpu ? kSmall : kLarge);
  rates.flops_f64 = product(DType::f64, kSmall);
  rates.flops_f16 = product(DType::bf16, is_gpu ? kSmall : kLarge);
  constexpr bool kIsTf32 = true;
  if (is_gpu) rates.flops_tf32 = product(DType::f32, kSmall, kIsTf32);
  const auto bytes = [](int64_t elements) { return 2.0 * 4.0 * static_cast<double>(elements); };
  const auto seconds = [&](int64_t elements) { return stream_seconds(device, elements); };
  constexpr int64_t kElements = int64_t{1} << 24;  // 64 MiB in, 64 MiB out: more than a CPU's caches hold
  constexpr int64_t kMostElements = int64_t{1} << 28;
  rates.bytes_per_second = SizedWork{kElements, kMostElements, bytes, seconds}.rate(is_gpu);
}

/// Plans without weights.
class NoWeights : public WeightSource {
 public:
  void read(const std::string& name, int64_t, std::span<std::byte>) const override { asked_for(name); }
  DType dtype(const std::string& name) const override { asked_for(name); }

 private:
  [[noreturn]] static void asked_for(const std::string& name) {
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

/// @param records  whether the session measures its instructions; without it a GPU replays its steps, as in training
std::vector<double> chain_seconds(const Plan& plan, int64_t elements, int steps, bool records,
                                  const std::function<double(executor::Session&, double)>& seconds_of) {
  executor::SessionOptions options;
  options.record_timeline = records;
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
    const bool records = cluster.devices.front().backend == "cpu";
    return least(chain_seconds(chain_plan(cluster, length, kElements, 0), kElements, kSteps, records, whole));
  };
  return std::max(0.0, (seconds(kLong) - seconds(kShort)) / (kLong - kShort));
}

/// From the end of the node that makes a value to the start of the one that reads its copy. The queues of GPUs share no
/// clock: there it is the copy, which lies on one of them.
double transfer_seconds_of(executor::Session& session) {
  const Plan& plan = session.plan();
  std::array<executor::MeasuredEntry, 2> runs{};
  const bool is_gpu = plan.devices.front().backend == "cuda";
  for (const executor::MeasuredEntry& entry : session.measured()) {
    const Instruction& instruction = plan.instructions[entry.instruction];
    if (is_gpu && instruction.action == Action::recv) return entry.end_s - entry.start_s;
    if (instruction.action != Action::run) continue;
    runs[plan.nodes[instruction.index].device.index()] = entry;
  }
  return std::max(0.0, runs[1].start_s - runs[0].end_s);
}

/// The link from the first device of `pair` to the second.
LinkProfile measure_link(const Cluster& pair) {
  const auto seconds = [&](int64_t elements, int steps) {
    const Plan plan = chain_plan(pair, 2, elements, 1);
    return least(chain_seconds(plan, elements, steps, true,
                               [](executor::Session& session, double) { return transfer_seconds_of(session); }));
  };
  constexpr int64_t kFew = 64;
  constexpr int64_t kMany = int64_t{1} << 22;  // 16 MiB
  const double latency = seconds(kFew, 200);
  const double large = seconds(kMany, 50);
  // On a machine that is never quiet the small copy may seem as slow as the large one: no more than half of that is
  // taken for latency.
  const double copying = std::max(large - latency, large / 2);
  return {pair.devices[0].backend, pair.devices[1].backend, 4.0 * static_cast<double>(kMany) / copying,
          std::min(latency, large / 2), is_same_gpu(pair.devices[0], pair.devices[1])};
}

/// From the first device to the next one, and on GPUs to the first of another GPU as well.
std::vector<LinkProfile> measure_links(const Cluster& cluster) {
  std::vector<LinkProfile> links;
  for (size_t d = 1; d < cluster.devices.size(); ++d) {
    const bool is_within = is_same_gpu(cluster.devices[0], cluster.devices[d]);
    if (std::ranges::find(links, is_within, &LinkProfile::is_same_gpu) != links.end()) continue;
    Cluster pair = cluster;
    pair.devices = {cluster.devices[0], cluster.devices[d]};
    link_all(pair);
    links.push_back(measure_link(pair));
  }
  return links;
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

/// What the measured device is, and with which versions it was measured.
void describe(const Device& device, DeviceProfile& profile) {
  profile.backend = device.backend;
  profile.versions["mpc"] = MPC_VERSION;
  if (device.backend == "cpu") {
    profile.hardware = processor_name();
    return;
  }
  const executor::CudaInventory inventory = executor::cuda_inventory();
  const int32_t gpu = executor::gpu_of(device.name);
  const auto facts = std::ranges::find(inventory.devices, gpu, &mpc_cuda_facts::ordinal);
  if (facts == inventory.devices.end()) {
    throw Error(ErrorId::M080, "device " + device.name,
                inventory.reason.empty() ? "there is no such GPU" : inventory.reason);
  }
  profile.hardware = facts->name;
  profile.versions["driver"] = fmt::format("CUDA {}.{}", facts->driver / 1000, facts->driver % 1000 / 10);
  for (const mpc_cuda_library& library : inventory.libraries) {
    profile.versions[library.name] = library.is_there != 0 ? fmt::to_string(library.version) : "missing";
  }
}

/// @throws Error(M046) naming the first device that is of another kind than the first.
void require_one_kind(const Cluster& cluster) {
  const Device& first = cluster.devices.front();
  for (const Device& device : cluster.devices) {
    if (device.backend == first.backend) continue;
    throw Error(ErrorId::M046, "device " + device.name,
                "is of another kind than " + first.name + ": one kind is measured at a time",
                "measure each kind on its own");
  }
}

v1::CompileOptions options_of(const v1::ProfileModel& row) {
  v1::CompileOptions options;
  options.bindings = row.bindings;
  options.precision = row.precision;
  if (row.is_training) {
    options.training.emplace();
    options.training->optimizer = row.optimizer;
    options.microbatches = 1;
  }
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
  const mpc::Cluster& measured = cluster.impl().cluster;
  require_one_kind(measured);
  mpc::Profile profile;
  DeviceProfile& device = profile.devices.emplace_back();
  describe(measured.devices.front(), device);

  mpc::Cluster one = measured;
  one.devices.resize(1);
  one.devices.front().memory_bytes = kUnbounded;
  link_all(one);
  const Cluster compile_for(std::make_shared<Cluster::Impl>(Cluster::Impl{one}));
  api::NodeTimers timers(measured.devices);
  NodeTimer& first = timers.first();
  api::ProfileNodes nodes;
  // Devices of the host share its last cache.
  const int64_t cache_bytes = first.is_gpu() ? 0 : executor::last_cache_bytes() / measured.count();
  for (const ProfileModel& row : models) {
    const auto plan = compile(row.model, compile_for, options_of(row));
    api::add_nodes(plan.value().impl().plan, {first.is_gpu(), cache_bytes}, nodes);
  }

  std::vector<DeviceRates> rates(measured.devices.size());
  timers.at_once([&](size_t i, NodeTimer& timer) { measure_rates(timer, rates[i]); });
  device.rates = rates.front();
  device.rates.launch_s = launch_seconds(one);
  profile.links = measure_links(measured);
  if (first.is_gpu()) {
    const executor::HostCopy to = first.gpu().copy_to_device();
    const executor::HostCopy from = first.gpu().copy_from_device();
    device.rates.host_bytes_per_second = std::min(to.bytes_per_second, from.bytes_per_second);
    profile.links.push_back({"cpu", "cuda", to.bytes_per_second, to.latency_s});
    profile.links.push_back({"cuda", "cpu", from.bytes_per_second, from.latency_s});
  } else {  // feeding an input and fetching an output are copies like those between two devices of the host
    device.rates.host_bytes_per_second =
        profile.links.empty() ? device.rates.bytes_per_second / 2 : profile.links.front().bytes_per_second;
  }
  // What a GPU takes from one kernel to the next is in both the launch and the kernel's time; of the difference no less
  // than a tenth is believed.
  const auto alone = [&](double seconds) {
    return first.is_gpu() ? std::max(seconds - device.rates.launch_s, seconds / 10) : seconds;
  };
  std::vector<const ProfileNode*> to_time;
  for (const auto& [name, node] : nodes) to_time.push_back(&node);
  const std::vector<std::optional<double>> seconds = timers.seconds_of(to_time, progress);
  for (size_t i = 0; i < to_time.size(); ++i) {
    const ProfileNode& node = *to_time[i];
    if (seconds[i]) device.add(node.key, {node.flops, node.bytes, std::max(alone(*seconds[i]), 1e-9)});
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
    if (rates.flops_tf32 > 0) text += fmt::format("  tf32 {}/s in products\n", flops_text(rates.flops_tf32));
    for (const auto& [name, version] : device.versions) text += fmt::format("  {} {}\n", name, escaped(version, 100));
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
    text += fmt::format("{} to {}{}: {}/s after {}\n", link.from, link.to, link.is_same_gpu ? " on one GPU" : "",
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
