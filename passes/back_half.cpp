#include "passes/back_half.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "compiler/base/text.h"
#include "compiler/ir/rewriter.h"
#include "compiler/plan/host_memory.h"
#include "compiler/plan/simulate.h"
#include "passes/batch_casts.h"
#include "passes/batch_splits.h"
#include "passes/batch_updates.h"
#include "passes/canonicalize.h"
#include "passes/chunks.h"
#include "passes/fit_memory.h"
#include "passes/fold_casts.h"
#include "passes/fuse_accumulations.h"
#include "passes/insert_transfers.h"
#include "passes/lower.h"
#include "passes/overlap_offload.h"
#include "passes/place/problem.h"
#include "passes/plan_memory.h"
#include "passes/recompute.h"
#include "passes/schedule/shop.h"
#include "passes/synchronize.h"

// From graphs to a plan: place, insert transfers, schedule, lower, plan memory, synchronize; again where it does not
// fit.

namespace mpc {
namespace {

// Attempts to raise the planner's memory estimate to what planning memory exactly found.
constexpr int kMostAttempts = 8;

// What is placed, with every operand where it is read: what a schedule orders and lowering makes instructions of.
struct LocalStep {
  Cluster cluster;  // with host memory where values wait there
  Graph main;
  std::optional<Graph> tail;
  Cuts cuts;

  std::vector<const Graph*> variants() const {
    std::vector<const Graph*> graphs = {&main};
    if (tail) graphs.push_back(&*tail);
    return graphs;
  }
};

// What a pipeline's stages are, and what they are balanced by.
struct Layout {
  ChunkLayout chunks = ChunkLayout::one;
  bool overlaps_transfers = false;  // in training: by work alone, for schedules with more micro-batches in flight
};

// One way to lay out a pipeline, as far as it goes without a schedule.
struct Way {
  ChunkedCluster parts;
  PlaceOptions place;
  Attempt first;
  LocalStep step;      // of the first attempt
  double least_s = 0;  // no schedule of it takes less: of several micro-batches, which are cut in segments
  bool is_judged = false;
  std::optional<Attempt> result;  // none where others are better
};

// Whether an attempt that takes `least_s` or more may be preferred to `rival`, which may be null.
bool may_win(bool is_of_parts, double least_s, const Attempt* rival) {
  if (rival == nullptr) return true;
  Attempt promised;  // fits
  promised.is_of_parts = is_of_parts;
  promised.step_seconds = least_s;
  return promised.is_preferred_to(*rival);
}

class BackHalf {
 public:
  BackHalf(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options, const Observed& observed)
      : graphs_(graphs), cluster_(cluster), options_(options), observed_(observed) {}

  /// The plan of the best placement found. A plan takes many times as long as the bound of its step, so what promises
  /// most comes first, and what cannot win any more is left out.
  Attempt run() const {
    std::vector<Way> ways;
    for (const Layout& layout : layouts()) {
      Way way = begin(layout);
      if (layout.overlaps_transfers && !is_clearly_lighter(way.first, ways.front().first)) continue;
      way.step = localize(way.first);
      ways.push_back(std::move(way));
    }
    for (Way& way : ways) {
      if (ways.size() > 1)
        way.least_s = least_step_seconds(Shop(way.step.cuts.split, graphs_.microbatches, graphs_.tail.has_value()));
    }
    while (Way* next = most_promising(ways, best_of(ways))) {
      next->result = finish(*next, best_of(ways));
      next->is_judged = true;
    }
    Attempt best = std::move(*best_of(ways));
    if (best.is_of_parts) judge_placement(graphs_.main, cluster_, place_options(), best.placement);
    // The way of one micro-batch through the devices is the step, which is now known better than by an estimate.
    if (options_.objective == Objective::latency && graphs_.microbatches == 1)
      best.placement.objective_value = best.step_seconds;
    return best;
  }

 private:
  static Attempt* best_of(std::vector<Way>& ways) {
    Attempt* best = nullptr;
    for (Way& way : ways) {
      if (way.result && (best == nullptr || way.result->is_preferred_to(*best))) best = &*way.result;
    }
    return best;
  }

  // A step takes at least the work of the device that has most of it, for every micro-batch. Where that is hardly less,
  // transfers beside the work gain nothing, and a plan is spared.
  static bool is_clearly_lighter(const Attempt& a, const Attempt& b) {
    constexpr double kClearly = 0.99;
    return a.placement.largest_work_s < kClearly * b.placement.largest_work_s;
  }

  static Way* most_promising(std::vector<Way>& ways, const Attempt* rival) {
    Way* best = nullptr;
    for (Way& way : ways) {
      if (way.is_judged || !may_win(way.first.is_of_parts, way.least_s, rival)) continue;
      if (best == nullptr || way.least_s < best->least_s) best = &way;
    }
    return best;
  }

  // The ways to lay out a pipeline that the schedule wants. Given devices and pins leave one.
  std::vector<Layout> layouts() const {
    const bool is_given =
        !options_.assignment.empty() || !options_.pins.empty() || options_.objective != Objective::throughput;
    if (is_given || cluster_.count() < 2) return {{}};
    if (options_.schedule == ScheduleKind::interleaved) return {{ChunkLayout::looped}};
    if (options_.schedule == ScheduleKind::zb_v) return {{ChunkLayout::vee}};
    const bool may_choose = options_.schedule == ScheduleKind::automatic && options_.train && graphs_.microbatches > 1;
    if (!may_choose) return {{}};
    std::vector<Layout> all = {{}, {ChunkLayout::looped}, {ChunkLayout::vee}};
    // With fewer micro-batches no more of them can be in flight than under 1F1B.
    if (place::has_copy_engines(cluster_) && graphs_.microbatches >= cluster_.count())
      all.push_back({ChunkLayout::one, true});
    return all;
  }

  // Without the graphs of the step, which other ways may have.
  Way begin(const Layout& layout) const {
    Way way;
    way.parts = chunk_devices(cluster_, layout.chunks, options_.chunks);
    way.place = place_options();
    way.place.extra_bytes.assign(way.parts.device_of.size(), 0);
    way.place.is_of_parts = layout.chunks != ChunkLayout::one;
    way.place.overlaps_transfers = layout.overlaps_transfers;
    // Parts that no one asked for are one of several tries.
    way.place.is_quick = layout.chunks != ChunkLayout::one && options_.schedule == ScheduleKind::automatic;
    way.first = place(way);
    return way;
  }

  Attempt place(const Way& way) const {
    observed_.stage("place", 0.3);
    Attempt attempt;
    attempt.placement = choose_devices(way.parts, way.place);
    attempt.is_of_parts = way.place.is_of_parts;
    return attempt;
  }

  // Nothing where the schedule alone says that the way is no better than `rival`, which may be null.
  std::optional<Attempt> finish(Way& way, const Attempt* rival) const {
    const int64_t share = way.parts.cluster.count() / cluster_.count();
    std::vector<int64_t>& extra_bytes = way.place.extra_bytes;
    std::optional<Attempt> best;
    for (int i = 0; i < kMostAttempts; ++i) {
      Attempt attempt = i == 0 ? std::move(way.first) : place(way);
      if (!(i == 0 ? lower_step(way.step, attempt, rival) : lower_step(localize(attempt), attempt, rival)))
        return std::nullopt;
      const std::vector<int64_t> before = extra_bytes;
      for (size_t part = 0; part < way.parts.device_of.size(); ++part) {
        // What the estimate missed counts against the capacity in the next attempt.
        const size_t d = way.parts.device_of[part].index();
        const int64_t missed = attempt.plan.devices[d].arena_bytes - attempt.placement.estimated_bytes[d];
        extra_bytes[part] = std::max(extra_bytes[part], missed / share);
      }
      const bool is_done = attempt.excess_bytes == 0 || extra_bytes == before || !options_.assignment.empty();
      if (!best || attempt.excess_bytes < best->excess_bytes) best = std::move(attempt);
      if (is_done) break;
    }
    if (best->excess_bytes > 0 && options_.train) fit_to_memory(*best);
    best->is_of_parts = way.place.is_of_parts;
    if (way.place.overlaps_transfers)
      best->notes.push_back("stages are balanced by their work alone: transfers are made beside it");
    observed_.stage("synchronize", 0.9);
    synchronize(best->plan);
    best->step_seconds = simulate(best->plan).step_seconds;
    return best;
  }

  void fit_to_memory(Attempt& best) const {
    const Graph placed = apply_placement(graphs_.main, best.placement.device_of_node);
    fit_memory(best, {placed, cluster_, graphs_.microbatches, options_},
               [this](Attempt& attempt) { lower_step(localize(attempt), attempt, nullptr); });
  }

  PlaceOptions place_options() const {
    return {options_.objective, options_.pins, graphs_.microbatches, {}, options_.refusal, false, false, false,
            options_.budget_s};
  }

  Placement choose_devices(const ChunkedCluster& parts, const PlaceOptions& place) const {
    if (!options_.assignment.empty()) return place_as_assigned();
    Placement placement = split(parts, place);
    for (DeviceId& device : placement.device_of_node) device = parts.device_of[device.index()];
    std::vector<int64_t> bytes(cluster_.devices.size(), 0);
    for (size_t part = 0; part < parts.device_of.size(); ++part)
      bytes[parts.device_of[part].index()] += placement.estimated_bytes[part];
    placement.estimated_bytes = std::move(bytes);
    return placement;
  }

  // The layouts of as many parts of equal devices are one question: only what the parts are called differs.
  Placement split(const ChunkedCluster& parts, const PlaceOptions& place) const {
    const bool is_first = std::ranges::all_of(place.extra_bytes, [](int64_t bytes) { return bytes == 0; });
    const auto is_alike = [&](const Device& device) {
      const Device& first = cluster_.devices.front();
      return device.kind == first.kind && device.memory_bytes == first.memory_bytes && device.threads == first.threads;
    };
    if (!is_first || parts.cluster.count() == cluster_.count() || !std::ranges::all_of(cluster_.devices, is_alike))
      return place_nodes(graphs_.main, parts.cluster, place);
    if (!split_of_parts_ || split_of_parts_->first != parts.cluster.count())
      split_of_parts_.emplace(parts.cluster.count(), place_nodes(graphs_.main, parts.cluster, place));
    return split_of_parts_->second;
  }

  // The given device of every forward node; the rest follows its anchor. Names come from a plan, in which casts, the
  // weights that they round and splits have been joined, and are known by the name of one: the others run where they
  // are read.
  Placement place_as_assigned() const {
    Placement placement;
    const Graph& graph = graphs_.main;
    placement.device_of_node.assign(static_cast<size_t>(graph.node_count()), DeviceId());
    std::vector<DeviceId> reader(static_cast<size_t>(graph.value_count()));  // where the first reader of a value runs
    for (int i = graph.node_count(); i-- > 0;) {
      const Node& node = graph.node(NodeId(i));
      const Node& placed = node.phase == Phase::forward ? node : graph.node(node.anchor);
      DeviceId device = given_device(placed.name);
      const bool may_be_joined = node.op == OpKind::Cast || node.op == OpKind::Concat || node.op == OpKind::Split;
      for (size_t o = 0; may_be_joined && !device.is_valid() && o < node.outputs.size(); ++o) {
        if (node.outputs[o].is_valid()) device = reader[node.outputs[o].index()];
      }
      placement.device_of_node[static_cast<size_t>(i)] = device;
      for (const ValueId input : node.inputs) {
        if (input.is_valid() && device.is_valid()) reader[input.index()] = device;
      }
    }
    for (int i = 0; i < graph.node_count(); ++i) {
      const Node& node = graph.node(NodeId(i));
      DeviceId& device = placement.device_of_node[static_cast<size_t>(i)];
      if (node.phase != Phase::forward) device = placement.device_of_node[node.anchor.index()];
      if (device.is_valid()) continue;
      throw Error(ErrorId::M003, "assignment",
                  fmt::format("node '{}' has no device or one that does not exist", node.name));
    }
    placement.estimated_bytes.assign(cluster_.devices.size(), 0);
    return placement;
  }

  DeviceId given_device(const std::string& name) const {
    const auto given = options_.assignment.find(name);
    const bool is_there = given != options_.assignment.end() && given->second >= 0 && given->second < cluster_.count();
    return is_there ? DeviceId(given->second) : DeviceId();
  }

  LocalStep localize(Attempt& attempt) const {
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

  // As many of the values as have the bytes that were asked for.
  static std::vector<ValueId> choose_offloaded(const Graph& graph, const Cluster& cluster, Attempt& attempt) {
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

  // Schedules and lowers. `auto` has to do with less memory, by as much as the plan that it made exceeds the
  // capacities. False, and no plan, where the step cannot be preferred to that of `rival`.
  bool lower_step(const LocalStep& step, Attempt& attempt, const Attempt* rival) const {
    const std::vector<const Graph*> variants = step.variants();
    observed_.stage("schedule", 0.6);
    constexpr int kMostSchedules = 4;
    std::vector<int64_t> most_kept;
    add_chunk_note(step.cuts.whole, attempt);
    for (int i = 0; i < kMostSchedules; ++i) {
      CutSchedule chosen =
          make_schedule(step.cuts, graphs_.microbatches, variants.size() > 1, options_.schedule, most_kept);
      // A plan takes at least what its schedule expects.
      if (!may_win(attempt.is_of_parts, chosen.schedule.step_seconds, rival)) return false;
      observed_.stage("lower", 0.7);
      Plan plan = lower(variants, step.cuts.of(chosen.cut), chosen.schedule, step.cluster, graphs_.microbatches);
      observed_.stage("plan memory", 0.8);
      plan = with_memory(std::move(plan));
      const int64_t excess = excess_bytes(plan);
      most_kept = chosen.schedule.kept_bytes;
      for (size_t d = 0; d < most_kept.size(); ++d) {
        most_kept[d] =
            std::max<int64_t>(0, most_kept[d] + plan.devices[d].capacity_bytes - plan.devices[d].arena_bytes);
      }
      if (i == 0 || excess < attempt.excess_bytes) {
        attempt.plan = std::move(plan);
        attempt.schedule = std::move(chosen.schedule);
        attempt.excess_bytes = excess;
      }
      if (attempt.excess_bytes == 0 || options_.schedule != ScheduleKind::automatic) break;
    }
    return true;
  }

  // Plans memory; copies to and from the host take what is left of it to run beside the work.
  static Plan with_memory(Plan lowered) {
    if (!is_host_memory(lowered.devices.back())) {
      plan_memory(lowered);
      return lowered;
    }
    Plan planned = lowered;
    plan_memory(planned);
    std::vector<int64_t> slack;
    for (const PlanDevice& device : planned.devices) slack.push_back(device.capacity_bytes - device.arena_bytes);
    // Bytes that are free in sum may lie in pieces: by as much as a try exceeds the capacity, the next one gets less.
    constexpr int kTries = 4;
    for (int i = 0; i < kTries && excess_bytes(planned) == 0; ++i) {
      Plan overlapped = lowered;
      overlap_offload(overlapped, slack);
      plan_memory(overlapped);
      if (excess_bytes(overlapped) == 0) return overlapped;
      for (size_t d = 0; d < slack.size(); ++d) {
        slack[d] -= std::max<int64_t>(0, overlapped.devices[d].arena_bytes - overlapped.devices[d].capacity_bytes);
      }
    }
    return planned;
  }

  // A schedule for several runs of nodes per device does what 1F1B or ZB-H1 does where there is one.
  void add_chunk_note(const Segments& segments, Attempt& attempt) const {
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

  Graph insert_transfers_of(const Graph& graph, const Attempt& attempt) const {
    const auto place_and_drop = [&](const Graph& unplaced) {
      Graph placed = observed_.after("place", apply_placement(unplaced, attempt.placement.device_of_node));
      return attempt.dropped.empty() ? placed : observed_.after("recompute", recompute(placed, attempt.dropped));
    };
    const Graph placed = place_and_drop(graph);
    // The main graph says what is small, so that both sizes of micro-batch group their transfers alike.
    const bool is_main = &graph == &graphs_.main;
    Graph local = observed_.after("insert_transfers", is_main ? insert_transfers(placed)
                                                              : insert_transfers(placed, place_and_drop(graphs_.main)));
    if (!options_.may_fuse) return local;
    // Last: until here an update goes where its parameter is, and a cast where its reader is.
    local = observed_.after("fold_casts", fold_casts(local));
    if (graphs_.microbatches > 1) local = observed_.after("fuse_accumulations", fuse_accumulations(local, cluster_));
    local = observed_.after("batch_updates", batch_updates(local));
    local = observed_.after("batch_splits", batch_splits(local));
    return observed_.after("batch_casts", batch_casts(local));
  }

  static int64_t excess_bytes(const Plan& plan) {
    int64_t excess = 0;
    for (const PlanDevice& device : plan.devices)
      excess += std::max<int64_t>(0, device.arena_bytes - device.capacity_bytes);
    return excess;
  }

  const FrontGraphs& graphs_;
  const Cluster& cluster_;
  const PlanOptions& options_;
  const Observed& observed_;
  mutable std::optional<std::pair<int, Placement>> split_of_parts_;  // by the number of parts
};

}  // namespace

Attempt best_attempt(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options,
                     const Observed& observed) {
  return BackHalf(graphs, cluster, options, observed).run();
}

}  // namespace mpc
