#include "passes/schedule/rules.h"

#include <algorithm>
#include <limits>
#include <set>

#include "compiler/base/error.h"

namespace mpc {
namespace {

// What the rules need to know of the pipeline that the segments make.
struct Pipeline {
  int stages = 0;                // devices with forward segments
  std::vector<int> levels_from;  // [device]: levels with forward segments from its first one on
  std::vector<int> position;     // [device]: among the devices, by first level
  std::vector<int> chunks;       // [device]: its forward segments
  bool has_backward = false;
};

Pipeline pipeline_of(const Segments& segments) {
  constexpr int kNoLevel = std::numeric_limits<int>::max();
  const auto devices = static_cast<size_t>(segments.device_count);
  Pipeline result;
  std::vector<int> first_level(devices, kNoLevel);
  std::set<int> levels;
  result.chunks.assign(devices, 0);
  for (const Segment& segment : segments.segments) {
    const bool is_gradient = segment.phase == SegmentPhase::backward || segment.phase == SegmentPhase::weight;
    result.has_backward = result.has_backward || is_gradient;
    if (segment.per_step || segment.phase != SegmentPhase::forward) continue;
    const size_t d = segment.device.index();
    levels.insert(segment.level);
    first_level[d] = std::min(first_level[d], segment.level);
    ++result.chunks[d];
  }
  for (size_t d = 0; d < devices; ++d) {
    result.stages += first_level[d] != kNoLevel ? 1 : 0;
    result.levels_from.push_back(static_cast<int>(std::distance(levels.lower_bound(first_level[d]), levels.end())));
    const auto before = [&](size_t other) {
      return std::pair(first_level[other], other) < std::pair(first_level[d], d);
    };
    int position = 0;
    for (size_t other = 0; other < devices; ++other) position += before(other) ? 1 : 0;
    result.position.push_back(position);
  }
  return result;
}

Rule sequential(const Segments&, const Pipeline&) {
  Rule rule;
  rule.rank = {0, 1, 2, 3};
  rule.is_serial = true;
  return rule;
}

Rule gpipe(const Segments&, const Pipeline&) {
  Rule rule;
  rule.rank = {0, 1, 2, 3};
  return rule;
}

Rule one_f_one_b(const Segments&, const Pipeline& pipeline) {
  Rule rule;
  if (!pipeline.has_backward) return rule;
  for (const int levels : pipeline.levels_from) rule.most_in_flight.push_back(std::max(1, levels));
  return rule;
}

Rule interleaved(const Segments& segments, const Pipeline& pipeline) {
  Rule rule;
  rule.rank = {0, 1, 2, 3};
  rule.group = std::max(1, pipeline.stages);
  rule.waits_for_forward = true;
  if (!pipeline.has_backward) return rule;
  rule.in_flight = Rule::InFlight::until_backward;
  for (size_t d = 0; d < static_cast<size_t>(segments.device_count); ++d) {
    const int behind = pipeline.stages - pipeline.position[d] - 1;
    rule.most_in_flight.push_back(std::max(1, 2 * behind + (pipeline.chunks[d] - 1) * pipeline.stages + 1));
  }
  return rule;
}

// Weight gradients fill the gaps, and are due when more than `owed` micro-batches owe them.
Rule zero_bubble(const Pipeline& pipeline, int depth) {
  Rule rule;
  rule.rank = {0, 1, 2, 3};
  if (!pipeline.has_backward) return rule;
  for (size_t d = 0; d < pipeline.position.size(); ++d) {
    const int in_flight = depth * (pipeline.stages - pipeline.position[d]) - (depth - 1);
    rule.most_in_flight.push_back(std::max(1, in_flight));
    rule.most_owed.push_back(depth * pipeline.position[d]);
  }
  return rule;
}

Rule zb_h1(const Segments&, const Pipeline& pipeline) {
  return zero_bubble(pipeline, 1);
}
Rule zb_h2(const Segments&, const Pipeline& pipeline) {
  return zero_bubble(pipeline, 2);
}

Rule zb_v(const Segments&, const Pipeline& pipeline) {
  Rule rule;
  rule.rank = {1, 0, 2, 3};
  rule.is_deep_first = true;
  rule.in_flight = Rule::InFlight::until_weight;
  if (!pipeline.has_backward) return rule;
  for (size_t d = 0; d < pipeline.position.size(); ++d) rule.most_in_flight.push_back(2 * pipeline.stages);
  return rule;
}

// The longest path from a segment's start to the end of the step.
Rule list(const Segments& segments, const Pipeline&) {
  Rule rule;
  rule.rank = {0, 0, 1, 1};
  rule.urgency.assign(segments.segments.size(), 0);
  std::vector<std::vector<const SegmentEdge*>> outgoing(segments.segments.size());
  for (const SegmentEdge& edge : segments.edges) outgoing[static_cast<size_t>(edge.from)].push_back(&edge);
  for (size_t s = segments.segments.size(); s-- > 0;) {  // edges ascend
    double longest = 0;
    for (const SegmentEdge* edge : outgoing[s]) {
      longest = std::max(longest, edge->seconds[0] + rule.urgency[static_cast<size_t>(edge->to)]);
    }
    rule.urgency[s] = segments.segments[s].seconds[0] + longest;
  }
  return rule;
}

constexpr double kAll = HeldMicrobatches::kAll;

struct Row {
  ScheduleKind kind;
  SegmentCut cut;
  Rule (*make)(const Segments&, const Pipeline&);
  HeldMicrobatches held;  // for one part per device
  double per_stage = 0;   // more of it for every further part
};

constexpr Row kRows[] = {
    // Held: per stage behind, per stage, fixed; owed per stage before.
    {ScheduleKind::sequential, SegmentCut::whole, sequential, {0, 0, 1}},
    {ScheduleKind::gpipe, SegmentCut::whole, gpipe, {0, 0, kAll}},
    {ScheduleKind::one_f_one_b, SegmentCut::whole, one_f_one_b, {1, 0, 0}},
    {ScheduleKind::interleaved, SegmentCut::whole, interleaved, {2, 0, -1}, 1},
    {ScheduleKind::zb_h1, SegmentCut::split, zb_h1, {1, 0, 0, 1}},
    {ScheduleKind::zb_h2, SegmentCut::split, zb_h2, {2, 0, -1, 2}},
    {ScheduleKind::zb_v, SegmentCut::split, zb_v, {0, 2, 0}},
    {ScheduleKind::list, SegmentCut::split, list, {0, 0, kAll}},
};

const Row& row_of(ScheduleKind kind) {
  const auto* row = std::ranges::find(kRows, kind, &Row::kind);
  MPC_CHECK(row != std::end(kRows), "a schedule that is not named has no rule");
  return *row;
}

}  // namespace

SegmentCut segment_cut(ScheduleKind kind) {
  return row_of(kind).cut;
}

HeldMicrobatches held_microbatches(ScheduleKind kind, int parts) {
  const Row& row = row_of(kind);
  HeldMicrobatches held = row.held;
  held.parts = parts;
  held.per_stage += row.per_stage * (parts - 1);
  return held;
}

Rule make_rule(const Segments& segments, ScheduleKind kind) {
  return row_of(kind).make(segments, pipeline_of(segments));
}

}  // namespace mpc
