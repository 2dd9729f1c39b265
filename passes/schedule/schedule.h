#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"
#include "passes/schedule/segments.h"

namespace mpc {

enum class ScheduleKind : uint8_t { sequential, gpipe, one_f_one_b, automatic };

/// "sequential", "gpipe", "1f1b", "auto".
std::optional<ScheduleKind> parse_schedule(std::string_view name);
std::string_view schedule_name(ScheduleKind kind);

/// One segment for one micro-batch (or for the step: microbatch == -1).
struct Task {
  int segment = 0;
  int microbatch = -1;
  double start_s = 0;
  double end_s = 0;
};

/// The tasks of a step in one order in which every task comes after what it needs; each device executes its tasks in this order.
struct Schedule {
  std::vector<Task> order;
  double step_seconds = 0;
  double bubble = 0;  // idle share of the devices that have tasks
  ScheduleKind kind = ScheduleKind::sequential;  // never automatic
};

// How orders are made: the step is played in time with the segments' predicted durations. Whenever a device is free it takes, among the tasks
// whose operands have arrived, the one its schedule prefers:
//   sequential  micro-batch by micro-batch: one is finished, backward included, before the next begins
//   gpipe       forward before backward
//   1f1b        backward before forward, and at most p - stage micro-batches between their first forward and last backward task
//               on a device (stage: how many device changes lie before it)
// Within a segment micro-batches ascend, so sums over micro-batches have one order. Dependencies are the graph's
// edges: skips, branches and shared weights need no rule of their own.
// Source of 1F1B: PipeDream (SOSP 2019), section 3.3; Megatron-LM (SC 2021), figure 4.

/// @param microbatches of a step; `tail` the index of the variant of the last one (segments.h).
/// `automatic` tries the named ones and takes 1F1B unless another is more than 2 % faster.
/// O(T log T) in tasks T.
Schedule make_schedule(const Segments& segments, int microbatches, bool has_tail, ScheduleKind kind);

}  // namespace mpc
