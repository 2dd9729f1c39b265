#include "passes/pipeline.h"

#include <algorithm>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "compiler/base/text.h"
#include "compiler/plan/host_memory.h"
#include "passes/back_half.h"
#include "passes/describe_plan.h"
#include "passes/move_cuts.h"
#include "passes/observed.h"
#include "passes/place/problem.h"

// The whole compiler on one page: a model becomes one graph per size of micro-batch (front_half.cpp), which is placed,
// scheduled and lowered to a plan (back_half.cpp); where none fits, the answer says what would.

namespace mpc {
namespace {

/// The largest tensors of a device that are in memory at once with everything that never leaves it.
std::vector<std::string> largest_tensors(const Plan& plan, DeviceId device) {
  constexpr size_t kShown = 3;
  std::set<std::pair<int64_t, std::string>, std::greater<>> tensors;
  for (const PlanSlice& slice : plan.slices) {
    if (slice.device == device && slice.value != kNone) tensors.emplace(slice.bytes, plan.values[slice.value].name);
  }
  std::vector<std::string> texts;
  for (const auto& [bytes, name] : tensors) {
    if (texts.size() == kShown) break;
    texts.push_back(fmt::format("{}: {}", name, bytes_text(bytes)));
  }
  return texts;
}

/// What no schedule, no clone and no host memory takes off a device: weights, and their gradients and optimizer state.
struct LastingBytes {
  int64_t largest_block = 0;  // on one device
  int64_t together = 0;       // on all
  int64_t kept = 0;           // beside that, for the backward pass of a micro-batch
};

LastingBytes lasting_bytes(const FrontGraphs& graphs, const Cluster& cluster) {
  const place::Problem problem = place::make_problem(graphs.main, cluster, {}, graphs.microbatches);
  LastingBytes lasting;
  for (size_t b = 0; b < problem.persistent_bytes.size(); ++b) {
    lasting.largest_block = std::max(lasting.largest_block, problem.persistent_bytes[b]);
    lasting.together += problem.persistent_bytes[b];
    lasting.kept += problem.kept_bytes[b];
  }
  return lasting;
}

bool may_hold(const Cluster& cluster, const LastingBytes& lasting) {
  int64_t most = 0;
  int64_t together = 0;
  for (const Device& device : cluster.devices) {
    most = std::max(most, device.memory_bytes);
    together += device.memory_bytes;
  }
  return lasting.largest_block <= most && lasting.together <= together;
}

/// What the request forbids and would make it fit, each alone: tried.
void suggest_means(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options,
                   const LastingBytes& lasting, const Observed& observed, Infeasible& result) {
  if (!options.train || !may_hold(cluster, lasting)) return;
  const auto fitting = [&](PlanOptions other) -> std::optional<PlanDevice> {
    other.only_fits = true;
    const Attempt attempt = best_attempt(graphs, cluster, other, observed);
    if (attempt.excess_bytes > 0) return std::nullopt;
    return attempt.plan.devices.back();
  };
  PlanOptions other = options;
  other.may_recompute = true;
  if (!options.may_recompute && fitting(other)) result.suggestions.push_back("--recompute auto");
  // All that every device could send there has had room.
  const int64_t most_offloaded = lasting.kept * cluster.count() * graphs.microbatches;
  if (options.may_offload && most_offloaded <= options.host_memory_bytes) return;
  other = options;
  other.may_offload = true;
  constexpr int64_t kAmple = int64_t{1} << 50;  // more than activations fill
  if (options.may_offload) other.host_memory_bytes = kAmple;
  const std::optional<PlanDevice> host = fitting(other);
  if (!host || !is_host_memory(*host)) return;
  result.suggestions.push_back(
      options.may_offload ? fmt::format("--host-memory {}", host->arena_bytes)
                          : fmt::format("--offload auto (takes {} of host memory)", bytes_text(host->arena_bytes)));
}

/// As many devices, the new ones like the last one, and linked as that one is.
Cluster with_more_devices(const Cluster& cluster, int count) {
  const auto last = static_cast<uint32_t>(cluster.count() - 1);
  Cluster larger = cluster;
  larger.devices.resize(static_cast<size_t>(count), cluster.devices.back());
  link_all(larger);
  for (Link& link : larger.links) {
    const uint32_t from = std::min<uint32_t>(link.from.index(), last);
    const uint32_t to = std::min<uint32_t>(link.to.index(), last);
    if (from == to) continue;  // between devices like the last one the table says
    const Link& given = cluster.link(DeviceId(from), DeviceId(to));
    link.bytes_per_second = given.bytes_per_second;
    link.latency_s = given.latency_s;
  }
  return larger;
}

/// How many devices like the last one were found to be enough: by halving, up to twice as many as there are.
std::optional<int> enough_devices(const FrontGraphs& graphs, const Cluster& cluster, PlanOptions options,
                                  const LastingBytes& lasting, const Observed& observed) {
  if (!options.assignment.empty()) return std::nullopt;
  options.only_fits = true;
  const auto fit = [&](int count) {
    const Cluster larger = with_more_devices(cluster, count);
    return may_hold(larger, lasting) && best_attempt(graphs, larger, options, observed).excess_bytes == 0;
  };
  int too_few = cluster.count();
  int enough = 2 * too_few;
  if (!fit(enough)) return std::nullopt;
  while (enough - too_few > 1) {
    const int middle = (too_few + enough) / 2;
    (fit(middle) ? enough : too_few) = middle;
  }
  return enough;
}

Infeasible explain(const Attempt& attempt, const FrontGraphs& graphs, const Cluster& cluster,
                   const PlanOptions& options, const Observed& observed) {
  Infeasible result;
  std::string memory;
  for (size_t d = 0; d < attempt.plan.devices.size(); ++d) {
    const PlanDevice& device = attempt.plan.devices[d];
    if (!is_host_memory(device))
      memory += fmt::format("{}{}", d == 0 ? "" : ",", std::max(device.arena_bytes, device.capacity_bytes));
    if (device.arena_bytes <= device.capacity_bytes) continue;
    result.needs.push_back(
        {static_cast<int>(d), device.arena_bytes, device.capacity_bytes, largest_tensors(attempt.plan, DeviceId(d))});
  }
  result.suggestions.push_back("--memory " + memory);
  const LastingBytes lasting = lasting_bytes(graphs, cluster);
  suggest_means(graphs, cluster, options, lasting, observed, result);
  if (const auto more = enough_devices(graphs, cluster, options, lasting, observed)) {
    result.suggestions.push_back(
        fmt::format("{} devices of {}", *more, bytes_text(cluster.devices.back().memory_bytes)));
  }
  return result;
}

}  // namespace

Cluster in_precision(Cluster cluster, Precision precision) {
  if (precision != Precision::tf32) return cluster;
  bool has_gpu = false;
  for (Device& device : cluster.devices) has_gpu |= device.rounds_to_tf32 = device.backend == "cuda";
  if (!has_gpu) {
    throw Error(ErrorId::M046, "--precision tf32",
                "only CUDA devices round the operands of products, and there is none",
                "use f32 or bf16, or a cuda device");
  }
  return cluster;
}

std::variant<Plan, Infeasible> make_plan(const FrontGraphs& graphs, const Cluster& given, const PlanOptions& options,
                                         const PipelineHooks& hooks) {
  const Cluster cluster = in_precision(given, options.precision);
  const Observed observed(hooks);
  Attempt attempt = best_attempt(graphs, cluster, options, observed);
  if (attempt.excess_bytes > 0) return explain(attempt, graphs, cluster, options, observed);
  Plan& plan = attempt.plan;
  describe_plan(plan, attempt, graphs, options);
  if (options.search_s > 0) plan = move_cuts(graphs, cluster, options, std::move(plan), observed);
  observed.stage("done", 1);
  return std::move(plan);
}

std::variant<Plan, Infeasible> make_plan(const onnx_io::Model& model, const Cluster& cluster,
                                         const PlanOptions& options, const Evaluator& evaluator,
                                         const PipelineHooks& hooks) {
  auto result = make_plan(make_front_graphs(model, options, evaluator, hooks), cluster, options, hooks);
  if (Plan* plan = std::get_if<Plan>(&result)) {
    plan->model.path = model.info().path;
    plan->model.sha256 = model.info().sha256;
  }
  return result;
}

}  // namespace mpc
