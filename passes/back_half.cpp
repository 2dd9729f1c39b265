#include "passes/back_half.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "compiler/plan/simulate.h"
#include "passes/add_loss.h"
#include "passes/chunks.h"
#include "passes/fit_memory.h"
#include "passes/lower_attempt.h"
#include "passes/place/problem.h"
#include "passes/schedule/shop.h"
#include "passes/synchronize.h"

// From graphs to a plan: place, insert transfers, schedule, lower, plan memory, synchronize; again where it does not
// fit.

namespace mpc {
namespace {

// Attempts to raise the planner's memory estimate to what planning memory exactly found.
constexpr int kMostAttempts = 8;
constexpr int kMostHopelessAttempts = 3;  // for which nothing fitted by the estimate
constexpr int kMostAttemptsToFit = 3;     // under PlanOptions::only_fits

// Stages that fit and take this many times as long as those that do not are compared with what else can be done.
constexpr double kMuchLonger = 1.1;

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
  std::vector<DeviceId> first_devices;  // of its nodes
  bool is_judged = false;
  bool is_tight = false;          // an attempt did not fit as it is
  bool is_held_back = false;      // an attempt fits, but in another order than the schedule prefers
  std::optional<Attempt> result;  // none where others are better
};

double step_seconds(Plan plan) {
  synchronize(plan);
  return simulate(plan).step_seconds;
}

bool are_devices_alike(const Cluster& cluster) {
  return std::ranges::all_of(cluster.devices, [&](const Device& device) {
    const Device& first = cluster.devices.front();
    return are_alike(device, first) && device.memory_bytes == first.memory_bytes;
  });
}

class BackHalf {
 public:
  /// @param to_beat_s  of what does not fit only what may get shorter than this is made to fit
  BackHalf(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options, const Observed& observed,
           double to_beat_s)
      : graphs_(graphs),
        cluster_(cluster),
        options_(options),
        observed_(observed),
        to_beat_s_(to_beat_s),
        are_alike_(are_devices_alike(cluster)),
        lowering_(graphs, cluster, options, observed) {}

  /// The plan of the best placement found; nothing when it would be no better than `rival`, which may be null. A plan
  /// takes many times as long as the bound of its step, so what promises most comes first, and what cannot win any more
  /// is left out.
  std::optional<Attempt> run(const Attempt* rival) const {
    std::vector<Way> ways;
    const std::vector<Layout> layouts = this->layouts();
    for (const Layout& layout : layouts) {
      Way way = begin(layout, expected_to_hold(layout));
      if (layout.overlaps_transfers && !is_clearly_lighter(way.first, ways.front().first)) continue;
      way.step = lowering_.localize(way.first);
      ways.push_back(std::move(way));
    }
    for (Way& way : ways) {
      if (ways.size() > 1)
        way.least_s = least_step_seconds(Shop(way.step.cuts.split, graphs_.microbatches, graphs_.tail.has_value()));
    }
    // Chunks need more memory: where it is short, what the plain pipeline takes says which of them are worth a plan.
    Way* next = is_short_of_memory(ways.front().first) ? &ways.front() : most_promising(ways, nullptr);
    for (; next != nullptr; next = most_promising(ways, best_of(ways))) {
      next->result = finish(*next, best_of(ways) != nullptr ? best_of(ways) : rival);
      next->is_judged = true;
      if (is_answer(next->result)) return std::move(*next->result);
    }
    if (const auto held = may_hold_instead(ways.front())) {
      Way way = begin(layouts.front(), *held);
      if (ways.front().is_tight || way.first_devices != ways.front().first_devices) {
        way.step = lowering_.localize(way.first);
        way.result = finish(way, rival);
        ways.push_back(std::move(way));
      }
    }
    if (best_of(ways) == nullptr) return std::nullopt;
    Attempt best = std::move(*best_of(ways));
    best.is_tight = std::ranges::any_of(ways, [](const Way& way) { return way.is_tight || way.is_held_back; });
    if (best.is_of_parts) judge_placement(graphs_.main, cluster_, place_options(), best.placement);
    // The way of one micro-batch through the devices is the step, which is now known better than by an estimate.
    if (options_.objective == Objective::latency && graphs_.microbatches == 1)
      best.placement.objective_value = best.step_seconds;
    return best;
  }

 private:
  // Enough where the question is whether a plan fits.
  bool is_answer(const std::optional<Attempt>& result) const {
    return options_.only_fits && result && result->excess_bytes == 0;
  }

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

  // By the estimate; what plans take is a little more or less.
  bool is_short_of_memory(const Attempt& attempt) const {
    constexpr double kAlmostAll = 0.9;
    const std::vector<int64_t>& bytes = attempt.placement.estimated_bytes;
    for (size_t d = 0; d < bytes.size(); ++d) {
      const auto capacity = static_cast<double>(cluster_.devices[d].memory_bytes);
      if (static_cast<double>(bytes[d]) > kAlmostAll * capacity) return true;
    }
    return false;
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
    if (!may_choose || options_.only_fits) return {{}};  // chunks make steps shorter, and need more memory
    std::vector<Layout> all = {{}, {ChunkLayout::looped}, {ChunkLayout::vee}};
    // With fewer micro-batches no more of them can be in flight than under 1F1B.
    if (place::has_copy_engines(cluster_) && graphs_.microbatches >= cluster_.count())
      all.push_back({ChunkLayout::one, true});
    return all;
  }

  // Without the graphs of the step, which other ways may have.
  Way begin(const Layout& layout, const HeldMicrobatches& held) const {
    Way way;
    way.parts = parts_of(layout);
    way.place = place_options();
    way.place.extra_bytes.assign(way.parts.device_of.size(), 0);
    way.place.is_of_parts = layout.chunks != ChunkLayout::one;
    way.place.held = held;
    way.place.overlaps_transfers = layout.overlaps_transfers;
    // Parts that no one asked for are one of several tries.
    way.place.is_quick = layout.chunks != ChunkLayout::one && options_.schedule == ScheduleKind::automatic;
    way.first = place(way);
    way.first_devices = way.first.placement.device_of_node;
    return way;
  }

  ChunkedCluster parts_of(const Layout& layout) const {
    return chunk_devices(cluster_, layout.chunks, options_.chunks);
  }

  // What the search for stages counts on. `auto` has orders for any number of micro-batches in flight, and takes more
  // where there is room.
  HeldMicrobatches expected_to_hold(const Layout& layout) const {
    if (options_.schedule == ScheduleKind::automatic) return counts_bytes() ? least_held() : HeldMicrobatches{};
    return held_microbatches(options_.schedule, parts_of(layout).cluster.count() / cluster_.count());
  }

  // Where memory is short, fewer micro-batches in flight may be cheaper for `auto` than a worse split or doing work
  // twice. The other schedules hold less than their closed forms where stages wait for each other, and then another
  // split is better: 1F1B's, and as much more for each device as a plan turns out to take.
  std::optional<HeldMicrobatches> may_hold_instead(const Way& first) const {
    const bool is_choice = options_.train && graphs_.microbatches > 1 && options_.assignment.empty() && !counts_bytes();
    if (!is_choice) return std::nullopt;
    const HeldMicrobatches& expected = first.place.held;
    if (options_.schedule == ScheduleKind::automatic)
      return first.is_tight ? std::optional(least_held()) : std::nullopt;
    const HeldMicrobatches of_1f1b;
    return expected == of_1f1b || expected == least_held() ? std::nullopt : std::optional(of_1f1b);
  }

  // One micro-batch in flight.
  static HeldMicrobatches least_held() { return held_microbatches(ScheduleKind::sequential, 1); }

  bool counts_bytes() const {
    return options_.objective == Objective::memory || options_.objective == Objective::devices;
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
    std::optional<Attempt> fastest;  // but too large
    int hopeless_attempts = 0;
    const int most = options_.only_fits ? kMostAttemptsToFit : kMostAttempts;
    for (int i = 0; i < most; ++i) {
      Attempt attempt = i == 0 ? std::move(way.first) : place(way);
      if (!(i == 0 ? lowering_.lower(way.step, attempt, rival)
                   : lowering_.lower(lowering_.localize(attempt), attempt, rival))) {
        if (!best) return std::nullopt;
        break;
      }
      const std::vector<int64_t> before = extra_bytes;
      const bool fits_as_estimated = attempt.placement.overflow_bytes == 0;
      for (size_t part = 0; part < way.parts.device_of.size(); ++part) {
        // What the estimate missed counts against the capacity in the next attempt; what it had too much counts for it
        // where by the estimate nothing fits.
        const size_t d = way.parts.device_of[part].index();
        const int64_t missed = (attempt.plan.devices[d].arena_bytes - attempt.placement.estimated_bytes[d]) / share;
        extra_bytes[part] = fits_as_estimated ? std::max(extra_bytes[part], missed) : missed;
      }
      if (are_alike_) way.place.device_order = attempt.placement.device_order;
      way.is_tight = way.is_tight || attempt.excess_bytes > 0 || !fits_as_estimated;
      way.is_held_back = way.is_held_back || attempt.is_tight;
      // Where what was learned makes nothing fit again and again, no other stages are found.
      hopeless_attempts += fits_as_estimated ? 0 : 1;
      const bool is_done = attempt.excess_bytes == 0 || extra_bytes == before ||
                           hopeless_attempts == kMostHopelessAttempts || !options_.assignment.empty();
      if (i == 0 && attempt.excess_bytes > 0 && has_means()) fastest = attempt;
      if (!best || attempt.excess_bytes < best->excess_bytes) best = std::move(attempt);
      if (is_done) break;
    }
    if (best->excess_bytes > 0 && options_.train) {
      fit_to_memory(*best);
    } else if (fastest && best->schedule.step_seconds > kMuchLonger * fastest->schedule.step_seconds) {
      fit_to_memory(*fastest);
      if (fastest->excess_bytes == 0 && step_seconds(fastest->plan) < step_seconds(best->plan))
        best = std::move(fastest);
    }
    best->is_of_parts = way.place.is_of_parts;
    if (way.place.overlaps_transfers)
      best->notes.push_back("stages are balanced by their work alone: transfers are made beside it");
    observed_.stage("synchronize", 0.9);
    synchronize(best->plan);
    best->step_seconds = simulate(best->plan).step_seconds;
    return best;
  }

  // Stages that fit may be so much slower than the best ones that doing work twice, or waiting for host memory, is
  // less.
  bool has_means() const {
    return options_.train && !options_.only_fits && (options_.may_recompute || options_.may_offload);
  }

  void fit_to_memory(Attempt& best) const {
    const Graph placed = apply_placement(graphs_.main, best.placement.device_of_node);
    fit_memory(best, {placed, cluster_, graphs_.microbatches, options_, to_beat_s_},
               [this](Attempt& attempt, PackEffort effort) {
                 lowering_.lower(lowering_.localize(attempt), attempt, nullptr, effort);
               });
  }

  PlaceOptions place_options() const {
    PlaceOptions place;
    place.objective = options_.objective;
    place.pins = options_.pins;
    place.microbatches = graphs_.microbatches;
    place.refusal = options_.refusal;
    place.budget_s = options_.budget_s;
    return place;
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
    if (!is_first || parts.cluster.count() == cluster_.count() || !are_alike_)
      return place_nodes(graphs_.main, parts.cluster, place);
    const std::pair key(parts.cluster.count(), place.held);
    if (!split_of_parts_ || split_of_parts_->first != key)
      split_of_parts_.emplace(key, place_nodes(graphs_.main, parts.cluster, place));
    return split_of_parts_->second;
  }

  // The given device of every forward node; the rest follows its anchor. Names come from a plan, in which casts, the
  // weights that they round and splits have been joined, and are known by the name of one, and what moves weights is
  // done when they are loaded: the others run where they are read. Nodes of the loss, which an annotated model does not
  // know, run where what they read is computed.
  Placement place_as_assigned() const {
    Placement placement;
    const Graph& graph = graphs_.main;
    placement.device_of_node.assign(static_cast<size_t>(graph.node_count()), DeviceId());
    std::vector<DeviceId> reader(static_cast<size_t>(graph.value_count()));  // where the first reader of a value runs
    for (int i = graph.node_count(); i-- > 0;) {
      const Node& node = graph.node(NodeId(i));
      const Node& placed = node.phase == Phase::forward ? node : graph.node(node.anchor);
      DeviceId device = given_device(placed.name);
      for (size_t o = 0; may_be_joined(node) && !device.is_valid() && o < node.outputs.size(); ++o) {
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
      if (!device.is_valid() && (node.name.starts_with(kLossScope) || may_be_joined(node)))
        device = device_of_operands(node, placement);
      if (device.is_valid()) continue;
      throw Error(ErrorId::M003, "assignment",
                  fmt::format("node '{}' has no device or one that does not exist", node.name));
    }
    placement.estimated_bytes.assign(cluster_.devices.size(), 0);
    return placement;
  }

  static bool may_be_joined(const Node& node) {
    const bool may_move_weights = node.op == OpKind::Transpose || node.op == OpKind::Reshape;
    return node.op == OpKind::Cast || node.op == OpKind::Concat || node.op == OpKind::Split ||
           (may_move_weights && node.rate == Rate::per_step && node.phase == Phase::forward);
  }

  DeviceId device_of_operands(const Node& node, const Placement& placement) const {
    DeviceId last;  // a loss joins what several outputs lose on the device of the last
    for (const ValueId input : node.inputs) {
      const NodeId producer = input.is_valid() ? graphs_.main.value(input).producer : NodeId();
      if (producer.is_valid()) last = placement.device_of_node[producer.index()];
    }
    return last;
  }

  DeviceId given_device(const std::string& name) const {
    const auto given = options_.assignment.find(name);
    const bool is_there = given != options_.assignment.end() && given->second >= 0 && given->second < cluster_.count();
    return is_there ? DeviceId(given->second) : DeviceId();
  }

  const FrontGraphs& graphs_;
  const Cluster& cluster_;
  const PlanOptions& options_;
  const Observed& observed_;
  const double to_beat_s_;
  bool are_alike_;
  AttemptLowering lowering_;
  mutable std::optional<std::pair<std::pair<int, HeldMicrobatches>, Placement>> split_of_parts_;  // by parts
};

}  // namespace

std::optional<Attempt> find_attempt(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options,
                                    const Observed& observed, const Attempt* rival, double to_beat_s) {
  return BackHalf(graphs, cluster, options, observed, to_beat_s).run(rival);
}

}  // namespace mpc
