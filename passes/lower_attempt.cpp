#include "passes/lower_attempt.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "compiler/cost/estimate.h"
#include "compiler/ir/rewriter.h"
#include "compiler/plan/host_memory.h"
#include "passes/batch_casts.h"
#include "passes/batch_splits.h"
#include "passes/batch_updates.h"
#include "passes/canonicalize.h"
#include "passes/channels_last.h"
#include "passes/fold_casts.h"
#include "passes/fold_weights.h"
#include "passes/fuse_accumulations.h"
#include "passes/insert_transfers.h"
#include "passes/lower.h"
#include "passes/overlap_offload.h"
#include "passes/plan_memory.h"
#include "passes/recompute.h"

namespace mpc {
namespace {

// As many of the values as have the bytes that were asked for.
std::vector<ValueId> choose_offloaded(const Graph& graph, const Cluster& cluster, Attempt& attempt) {
  Offloaded& chosen = attempt.offloaded;
  chosen = {0, std::vector<int64_t>(attempt.offload_bytes.size(), 0), 0};
  std::vector<ValueId> values;
  for (const Offloadable& candidate : offloadable_values(graph, cluster)) {
    const size_t d = candidate.device.index();
    if (chosen.bytes[d] >= attempt.offload_bytes[d]) continue;
    chosen.bytes[d] += candidate.bytes;
    chosen.seconds += candidate.seconds;
    ++chosen.values;
    values.push_back(candidate.value);
  }
  return values;
}

int64_t excess_bytes(const Plan& plan) {
  int64_t excess = 0;
  for (const PlanDevice& device : plan.devices)
    excess += std::max<int64_t>(0, device.arena_bytes - device.capacity_bytes);
  return excess;
}

// Plans memory; copies to and from the host take what is left of it to run beside the work.
Plan with_memory(Plan lowered, PackEffort effort) {
  if (!is_host_memory(lowered.devices.back())) {
    plan_memory(lowered, effort);
    return lowered;
  }
  Plan planned = lowered;
  plan_memory(planned, effort);
  std::vector<int64_t> slack;
  for (const PlanDevice& device : planned.devices) slack.push_back(device.capacity_bytes - device.arena_bytes);
  // Bytes that are free in sum may lie in pieces: by as much as a try exceeds the capacity, the next one gets less.
  constexpr int kTries = 4;
  for (int i = 0; i < kTries && excess_bytes(planned) == 0; ++i) {
    Plan overlapped = lowered;
    overlap_offload(overlapped, slack);
    plan_memory(overlapped, effort);
    if (excess_bytes(overlapped) == 0) return overlapped;
    for (size_t d = 0; d < slack.size(); ++d) {
      slack[d] -= std::max<int64_t>(0, overlapped.devices[d].arena_bytes - overlapped.devices[d].capacity_bytes);
    }
  }
  return planned;
}

/// The step if that device did it all, after the same passes: no transfers, nothing computed again.
double seconds_alone(const LocalStep& step, const Device& device, int microbatches) {
  double sum = 0;
  for (int n = 0; n < step.main.node_count(); ++n) {
    const Node& node = step.main.node(NodeId(n));
    if (node.op == OpKind::Transfer || is_recomputed(node)) continue;
    const int tails = step.tail && node.rate != Rate::per_step ? 1 : 0;
    const int times = node.rate == Rate::per_step ? 1 : microbatches - tails;
    sum += times * node_seconds(step.main, NodeId(n), device);
    if (tails > 0) sum += node_seconds(*step.tail, NodeId(n), device);
  }
  return sum;
}

double one_device_seconds(const LocalStep& step, const Cluster& cluster, int microbatches) {
  double least = std::numeric_limits<double>::infinity();
  for (auto device = cluster.devices.begin(); device != cluster.devices.end(); ++device) {
    const bool is_known =
        std::any_of(cluster.devices.begin(), device, [&](const Device& before) { return are_alike(before, *device); });
    if (!is_known) least = std::min(least, seconds_alone(step, *device, microbatches));
  }
  return least;
}

/// Do the devices carry out the same tasks in the same order?
bool are_same(const CutSchedule& a, const CutSchedule& b) {
  const auto is_same_task = [](const Task& x, const Task& y) {
    return x.segment == y.segment && x.microbatch == y.microbatch;
  };
  return a.cut == b.cut && std::ranges::equal(a.schedule.order, b.schedule.order, is_same_task);
}

}  // namespace

bool may_win(bool is_of_parts, double least_s, const Attempt* rival) {
  if (rival == nullptr) return true;
  Attempt promised;  // fits
  promised.is_of_parts = is_of_parts;
  promised.step_seconds = least_s;
  return promised.is_preferred_to(*rival);
}

LocalStep AttemptLowering::localize(Attempt& attempt) const {
  LocalStep step{cluster_, insert_transfers_of(graphs_.main, attempt), std::nullopt, {}};
  if (graphs_.tail) step.tail = insert_transfers_of(*graphs_.tail, attempt);
  if (!attempt.offload_bytes.empty()) {
    const Cluster with_host = with_host_memory(cluster_, options_.host_memory_bytes);
    const std::vector<ValueId> values = choose_offloaded(step.main, with_host, attempt);
    if (step.tail) step.tail = observed_.after("offload", offload(*step.tail, values, with_host));
    step.main = observed_.after("offload", offload(step.main, values, with_host));
    if (!values.empty()) step.cluster = with_host;
  }
  if (step.tail)
    MPC_CHECK(have_same_structure(step.main, *step.tail), "the last micro-batch has another graph than the others");
  step.cuts = make_cuts(step.variants(), step.cluster, graphs_.microbatches);
  return step;
}

bool AttemptLowering::lower(const LocalStep& step, Attempt& attempt, const Attempt* rival, PackEffort effort) const {
  const std::vector<const Graph*> variants = step.variants();
  observed_.stage("schedule", 0.6);
  constexpr int kMostSchedules = 4;
  std::vector<int64_t> most_kept = most_to_keep(step.cuts);
  add_chunk_note(step.cuts.whole, attempt);
  CutSchedule last;
  for (int i = 0; i < kMostSchedules; ++i) {
    CutSchedule chosen =
        make_schedule(step.cuts, graphs_.microbatches, variants.size() > 1, options_.schedule, most_kept);
    // A plan takes at least what its schedule expects.
    if (!may_win(attempt.is_of_parts, chosen.schedule.step_seconds, rival)) return false;
    if (i > 0 && are_same(chosen, last)) break;  // no order keeps less
    observed_.stage("lower", 0.7);
    Plan plan = mpc::lower(variants, step.cuts.of(chosen.cut), chosen.schedule, step.cluster, graphs_.microbatches);
    observed_.stage("plan memory", 0.8);
    plan = with_memory(std::move(plan), effort);
    const int64_t excess = excess_bytes(plan);
    most_kept = chosen.schedule.kept_bytes;
    for (size_t d = 0; d < most_kept.size(); ++d) {
      most_kept[d] = std::max<int64_t>(0, most_kept[d] + plan.devices[d].capacity_bytes - plan.devices[d].arena_bytes);
    }
    if (i == 0 || excess < attempt.excess_bytes) {
      attempt.plan = std::move(plan);
      attempt.schedule = chosen.schedule;
      attempt.excess_bytes = excess;
    }
    attempt.is_tight = attempt.is_tight || excess > 0;
    last = std::move(chosen);
    if (attempt.excess_bytes == 0 || options_.schedule != ScheduleKind::automatic) break;
  }
  attempt.plan.one_device_seconds = one_device_seconds(step, cluster_, graphs_.microbatches);
  return true;
}

// Where bytes are what counts, `auto` may keep what one micro-batch after the other does. Empty: no limit.
std::vector<int64_t> AttemptLowering::most_to_keep(const Cuts& cuts) const {
  if (options_.objective != Objective::memory || options_.schedule != ScheduleKind::automatic) return {};
  return make_schedule(cuts.whole, graphs_.microbatches, graphs_.tail.has_value(), ScheduleKind::sequential).kept_bytes;
}

// A schedule for several runs of nodes per device does what 1F1B or ZB-H1 does where there is one.
void AttemptLowering::add_chunk_note(const Segments& segments, Attempt& attempt) const {
  if (options_.schedule != ScheduleKind::interleaved && options_.schedule != ScheduleKind::zb_v) return;
  std::vector<int> runs(cluster_.devices.size(), 0);
  for (const Segment& segment : segments.segments) {
    if (segment.phase == SegmentPhase::forward && !segment.per_step) ++runs[segment.device.index()];
  }
  if (std::ranges::max(runs) > 1) return;
  attempt.notes.push_back(fmt::format(
      "schedule {}: no device has more than one run of nodes, so there is nothing to interleave{}",
      schedule_name(options_.schedule),
      options_.pins.empty() && options_.assignment.empty() ? "" : " (pins and annotations decide what runs where)"));
}

Graph AttemptLowering::insert_transfers_of(const Graph& graph, const Attempt& attempt) const {
  const auto place_and_drop = [&](const Graph& unplaced) {
    Graph placed = observed_.after("place", apply_placement(unplaced, attempt.placement.device_of_node));
    return attempt.dropped.empty() ? placed : observed_.after("recompute", recompute(placed, attempt.dropped));
  };
  const Graph placed = place_and_drop(graph);
  // The main graph says what is small, so that both sizes of micro-batch group their transfers alike.
  const std::optional<Graph> placed_main =
      &graph == &graphs_.main ? std::nullopt : std::optional(place_and_drop(graphs_.main));
  Graph local = observed_.after("insert_transfers",
                                placed_main ? insert_transfers(placed, *placed_main) : insert_transfers(placed));
  if (!options_.may_fuse) return local;
  local = placed_main ? channels_last(std::move(local), insert_transfers(*placed_main), cluster_)
                      : channels_last(std::move(local), cluster_);
  local = observed_.after("channels_last", std::move(local));
  // Last: until here an update goes where its parameter is, and a cast where its reader is.
  local = observed_.after("fold_casts", fold_casts(std::move(local)));
  if (!options_.train) local = observed_.after("fold_weights", fold_weights(local));
  if (graphs_.microbatches > 1)
    local = observed_.after("fuse_accumulations", fuse_accumulations(std::move(local), cluster_));
  local = observed_.after("batch_updates", batch_updates(std::move(local)));
  local = observed_.after("batch_splits", batch_splits(std::move(local)));
  return observed_.after("batch_casts", batch_casts(std::move(local)));
}

}  // namespace mpc
