#include "passes/schedule/schedule.h"

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>

#include "passes/schedule/search.h"

namespace mpc {
namespace {

constexpr std::array<std::string_view, 9> kNames = {"sequential", "gpipe", "1f1b", "interleaved", "zb-h1",
                                                    "zb-h2",      "zb-v",  "list", "auto"};
constexpr ScheduleKind kNamed[] = {ScheduleKind::one_f_one_b, ScheduleKind::gpipe,     ScheduleKind::interleaved,
                                   ScheduleKind::zb_h1,       ScheduleKind::zb_h2,     ScheduleKind::zb_v,
                                   ScheduleKind::list,        ScheduleKind::sequential};
// So many of the best named schedules are improved.
constexpr size_t kStarts = 3;
// Ordering single nodes takes time with the square of their number.
constexpr int kMostSingles = 10'000;
constexpr double kNever = std::numeric_limits<double>::infinity();

using Score = std::tuple<int64_t, double, int64_t>;

// Bytes above the limit, seconds, bytes.
Score score(const Schedule& schedule, const std::vector<int64_t>& most_kept_bytes) {
  int64_t excess = 0;
  int64_t kept = 0;
  for (size_t d = 0; d < schedule.kept_bytes.size(); ++d) {
    kept += schedule.kept_bytes[d];
    if (!most_kept_bytes.empty()) excess += std::max<int64_t>(0, schedule.kept_bytes[d] - most_kept_bytes[d]);
  }
  return {excess, schedule.step_seconds, kept};
}

// Has a device several runs of forward nodes, which other devices work between?
bool has_runs_to_order(const Segments& segments) {
  std::vector<int> runs(static_cast<size_t>(segments.device_count), 0);
  for (const Segment& segment : segments.segments) {
    if (segment.phase == SegmentPhase::forward && !segment.per_step) ++runs[segment.device.index()];
  }
  return std::ranges::any_of(runs, [](int count) { return count > 1; });
}

CutSchedule best_schedule(const Cuts& cuts, int microbatches, bool has_tail, const std::vector<int64_t>& most_kept) {
  std::vector<std::pair<Score, CutSchedule>> candidates;
  const auto add = [&](SegmentCut cut, Schedule schedule) {
    Score value = score(schedule, most_kept);
    candidates.push_back({value, {cut, std::move(schedule)}});
  };
  for (const ScheduleKind kind : kNamed) {
    const SegmentCut cut = segment_cut(kind);
    add(cut, make_schedule(cuts.of(cut), microbatches, has_tail, kind));
    if (most_kept.empty() || std::get<0>(candidates.back().first) == 0) continue;
    // The same preferences, held back where memory would not do.
    Rule rule = make_rule(cuts.of(cut), kind);
    rule.most_kept_bytes = most_kept;
    Schedule held_back = play(cuts.of(cut), microbatches, has_tail, rule);
    held_back.name = schedule_name(ScheduleKind::automatic);
    add(cut, std::move(held_back));
  }
  std::ranges::stable_sort(candidates, {}, [](const auto& candidate) { return candidate.first; });
  CutSchedule best = candidates.front().second;
  Score best_score = candidates.front().first;
  for (size_t i = 0; i < std::min(kStarts, candidates.size()); ++i) {
    const auto& [cut, start] = candidates[i].second;
    const bool fits = std::get<0>(best_score) == 0;
    const double known_s = fits ? best.schedule.step_seconds : kNever;
    std::optional<Schedule> found = improve(cuts.of(cut), microbatches, has_tail, start, most_kept, known_s);
    if (!found) continue;
    const Score value = score(*found, most_kept);
    if (!(value < best_score)) continue;
    found->name = schedule_name(ScheduleKind::automatic);
    best = {cut, std::move(*found)};
    best_score = value;
  }
  if (cuts.single.segments.empty()) return best;
  Schedule single = make_schedule(cuts.single, microbatches, has_tail, ScheduleKind::list);
  std::optional<Schedule> found = improve(cuts.single, microbatches, has_tail, single, most_kept, kNever);
  if (found && score(*found, most_kept) < score(single, most_kept)) {
    single = std::move(*found);
    single.name = schedule_name(ScheduleKind::automatic);
  }
  if (score(single, most_kept) < best_score) best = {SegmentCut::single, std::move(single)};
  return best;
}

}  // namespace

std::vector<std::string> schedule_names() {
  return {kNames.begin(), kNames.end()};
}

std::optional<ScheduleKind> parse_schedule(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<ScheduleKind>(i);
  }
  return std::nullopt;
}

std::string_view schedule_name(ScheduleKind kind) {
  return kNames[static_cast<size_t>(kind)];
}

const Segments& Cuts::of(SegmentCut cut) const {
  switch (cut) {
    case SegmentCut::whole:
      return whole;
    case SegmentCut::split:
      return split;
    case SegmentCut::single:
      break;
  }
  return single;
}

Cuts make_cuts(const std::vector<const Graph*>& graphs, const Cluster& cluster, int microbatches) {
  Cuts cuts = {
      make_segments(graphs, cluster, SegmentCut::whole), make_segments(graphs, cluster, SegmentCut::split), {}};
  const bool is_small = graphs.front()->node_count() <= kMostSingles;
  if (microbatches == 1 && is_small && has_runs_to_order(cuts.whole))
    cuts.single = make_segments(graphs, cluster, SegmentCut::single);
  return cuts;
}

Schedule make_schedule(const Segments& segments, int microbatches, bool has_tail, ScheduleKind kind) {
  Schedule schedule = play(segments, microbatches, has_tail, make_rule(segments, kind));
  schedule.name = schedule_name(kind);
  return schedule;
}

CutSchedule make_schedule(const Cuts& cuts, int microbatches, bool has_tail, ScheduleKind kind,
                          const std::vector<int64_t>& most_kept_bytes) {
  if (kind == ScheduleKind::automatic) return best_schedule(cuts, microbatches, has_tail, most_kept_bytes);
  const SegmentCut cut = segment_cut(kind);
  return {cut, make_schedule(cuts.of(cut), microbatches, has_tail, kind)};
}

}  // namespace mpc
