#include <algorithm>
#include <functional>

#include <fmt/format.h>

#include "compiler/plan/host_memory.h"
#include "passes/back_half.h"

namespace mpc {
namespace {

// What a search aims at is an estimate. Where the plan itself says what the objective is, the plans of these objectives
// are looked at, too, and another one's is taken where it is better.
std::vector<Objective> rivals_of(const PlanOptions& options, int microbatches) {
  if (!options.assignment.empty()) return {};
  if (options.objective == Objective::memory) return {Objective::throughput, Objective::latency, Objective::devices};
  if (options.objective == Objective::latency && microbatches == 1) return {Objective::throughput};
  return {};
}

double largest_share(const Plan& plan) {
  double largest = 0;
  for (const PlanDevice& device : plan.devices) {
    if (is_host_memory(device)) continue;
    largest = std::max(largest, static_cast<double>(device.arena_bytes) / static_cast<double>(device.capacity_bytes));
  }
  return largest;
}

// Where memory is short `auto` holds its order back for the stages that it has. Those that a schedule of less memory
// leads to, without holding back, may be better.
constexpr ScheduleKind kFrugal[] = {ScheduleKind::one_f_one_b, ScheduleKind::zb_h1, ScheduleKind::gpipe};

bool may_be_beaten(const Attempt& best, const PlanOptions& options, int microbatches) {
  return microbatches > 1 && best.is_tight && best.excess_bytes == 0 && options.schedule == ScheduleKind::automatic &&
         options.objective == Objective::throughput && options.assignment.empty() && !options.only_fits &&
         options.train;
}

// What the objective makes small, as far as the plan says it.
std::pair<int64_t, double> value_of(const Attempt& attempt, Objective objective) {
  return {attempt.excess_bytes, objective == Objective::memory ? largest_share(attempt.plan) : attempt.step_seconds};
}

void take_over(Attempt& best, Attempt rival, const FrontGraphs& graphs, const Cluster& cluster,
               const PlanOptions& options, const std::string& why) {
  best = std::move(rival);
  PlaceOptions place;
  place.objective = options.objective;
  place.pins = options.pins;
  place.microbatches = graphs.microbatches;
  place.held =
      held_microbatches(options.schedule == ScheduleKind::automatic ? ScheduleKind::sequential : options.schedule, 1);
  judge_placement(graphs.main, cluster, place, best.placement);
  if (options.objective == Objective::latency) best.placement.objective_value = best.step_seconds;
  best.notes.push_back(fmt::format("objective {}: {}", objective_name(options.objective), why));
}

/// Where the answer shall come soonest, a device more is one that need not be used.
bool may_use_fewer(const Cluster& cluster, const PlanOptions& options, int microbatches) {
  return options.objective == Objective::latency && microbatches == 1 && cluster.count() > 1 &&
         options.assignment.empty() && options.pins.empty() && !options.only_fits;
}

/// The fastest devices of the cluster, in its order: one less, and of many the next power of two.
std::vector<DeviceId> fewer_devices(const Cluster& cluster) {
  constexpr int kFew = 4;
  int count = cluster.count() - 1;
  if (cluster.count() > kFew) {
    for (count = kFew; 2 * count < cluster.count();) count *= 2;
  }
  std::vector<DeviceId> devices;
  for (int d = 0; d < cluster.count(); ++d) devices.emplace_back(d);
  std::ranges::stable_sort(devices, std::greater<>(), [&](DeviceId d) { return cluster.device(d).rates.flops_f32; });
  devices.resize(static_cast<size_t>(count));
  std::ranges::sort(devices);
  return devices;
}

Cluster part_of(const Cluster& cluster, const std::vector<DeviceId>& devices) {
  Cluster part;
  for (const DeviceId device : devices) part.devices.push_back(cluster.device(device));
  for (size_t from = 0; from < devices.size(); ++from) {
    for (size_t to = 0; to < devices.size(); ++to) {
      Link link = cluster.link(devices[from], devices[to]);
      link.from = DeviceId(static_cast<int>(from));
      link.to = DeviceId(static_cast<int>(to));
      part.links.push_back(link);
    }
  }
  return part;
}

/// The best plan on some of the devices, as a plan for all of them.
Attempt attempt_on_fewer(const FrontGraphs& graphs, const Cluster& cluster, PlanOptions options,
                         const Observed& observed) {
  const std::vector<DeviceId> devices = fewer_devices(cluster);
  PlanOptions of_part = options;
  of_part.budget_s = kLatencyBudget;  // more time goes to the search on all of them
  const Attempt found = best_attempt(graphs, part_of(cluster, devices), of_part, observed);
  for (int i = 0; i < graphs.main.node_count(); ++i) {
    const Node& node = graphs.main.node(NodeId(i));
    const DeviceId device = found.placement.device_of_node[static_cast<size_t>(i)];
    if (node.phase == Phase::forward) options.assignment[node.name] = static_cast<int>(devices[device.index()].index());
  }
  return *find_attempt(graphs, cluster, options, observed);
}

}  // namespace

Attempt best_attempt(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options,
                     const Observed& observed) {
  Attempt best = *find_attempt(graphs, cluster, options, observed);
  if (options.only_fits && best.excess_bytes == 0) return best;
  PlanOptions other = options;
  for (const Objective objective : rivals_of(options, graphs.microbatches)) {
    other.objective = objective;
    Attempt rival = *find_attempt(graphs, cluster, other, observed);
    if (value_of(rival, options.objective) < value_of(best, options.objective)) {
      const std::string why =
          fmt::format("the plan of objective {} is the better one, and is taken", objective_name(objective));
      take_over(best, std::move(rival), graphs, cluster, options, why);
    }
  }
  if (may_use_fewer(cluster, options, graphs.microbatches)) {
    Attempt rival = attempt_on_fewer(graphs, cluster, options, observed);
    if (value_of(rival, options.objective) < value_of(best, options.objective))
      take_over(best, std::move(rival), graphs, cluster, options, "fewer devices answer sooner than all of them");
  }
  if (!may_be_beaten(best, options, graphs.microbatches)) return best;
  other = options;
  for (const ScheduleKind kind : kFrugal) {
    other.schedule = kind;
    // A schedule expects up to some percent more than its plan takes.
    constexpr double kExpectedMore = 1.1;
    Attempt to_beat = best;
    to_beat.step_seconds *= kExpectedMore;
    std::optional<Attempt> rival = find_attempt(graphs, cluster, other, observed, &to_beat, best.step_seconds);
    if (rival && rival->is_preferred_to(best)) best = std::move(*rival);
  }
  return best;
}

}  // namespace mpc
