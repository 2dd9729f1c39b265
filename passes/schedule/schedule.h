#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"
#include "passes/schedule/play.h"
#include "passes/schedule/rules.h"

namespace mpc {

/// "sequential", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "list", "auto".
std::vector<std::string> schedule_names();
std::optional<ScheduleKind> parse_schedule(std::string_view name);
std::string_view schedule_name(ScheduleKind kind);

/// A step cut in all ways.
struct Cuts {
  Segments whole;
  Segments split;
  Segments single;  // empty where it would bring nothing
  const Segments& of(SegmentCut cut) const;
};

/// With one micro-batch, devices that have more than one run of nodes may order them node by node.
Cuts make_cuts(const std::vector<const Graph*>& graphs, const Cluster& cluster, int microbatches);

/// A schedule and the cut whose segments it orders.
struct CutSchedule {
  SegmentCut cut = SegmentCut::whole;
  Schedule schedule;
};

/// The named schedule of these segments. @pre kind is not automatic. O(T (S + D)) in tasks T, segments per device S.
Schedule make_schedule(const Segments& segments, int microbatches, bool has_tail, ScheduleKind kind);

/// The schedule of a step. `automatic` takes the shortest within `most_kept_bytes` per device (empty: no limit) of all
/// named ones, of `list` node by node, and of the orders that a search from the best of the named ones finds; among
/// equals the one that keeps fewest bytes. Where none is within, the one that exceeds the limit least.
CutSchedule make_schedule(const Cuts& cuts, int microbatches, bool has_tail, ScheduleKind kind,
                          const std::vector<int64_t>& most_kept_bytes);

}  // namespace mpc
