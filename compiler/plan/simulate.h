#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "compiler/plan/plan.h"

namespace mpc {

/// When one instruction runs, in seconds from the start of the step.
struct TimelineEntry {
  PlanIndex instruction = 0;
  double start_s = 0;
  double end_s = 0;
};

struct Timeline {
  std::vector<TimelineEntry> entries;  // run, send and recv instructions, in the plan's total order
  double step_seconds = 0;
  std::vector<double> device_busy_s;  // compute queue, per device
  double bubble = 0;                  // 1 - busy / (devices that compute * step_seconds)
};

/// Replays the plan's queues with the predicted durations of its nodes and transfers (feeds and fetches take no time).
/// A transfer occupies its link from when both sides are ready. No arithmetic on tensors. O(instructions).
/// @pre the plan passed check_plan.
Timeline simulate(const Plan& plan);

/// The same with durations that were measured in one step: `seconds[instruction]` of run and recv instructions.
/// @pre the plan passed check_plan; seconds.size() == plan.instructions.size()
Timeline replay(const Plan& plan, const std::vector<double>& seconds);

/// The plan's step as a Chrome/Perfetto trace (JSON): a track per device and per link, entries with name, phase,
/// micro-batch and bytes, and a counter of live bytes per device. `title` names the process, so that predicted and
/// measured timelines can stand side by side. @pre the plan passed check_plan; entries in the plan's total order.
std::string trace_json(const Plan& plan, const Timeline& timeline, const char* title);

/// Calls `visit` for every instruction in the plan's total order. Those without an entry (feeds and fetches take no
/// time) stand at the end of what their queue did before. @pre entries in the plan's total order.
void for_each_timed(const Plan& plan, const Timeline& timeline,
                    const std::function<void(const Instruction&, double start_s, double end_s)>& visit);

/// Bytes live in a device's arena from this moment on.
struct MemoryPoint {
  double time_s = 0;
  int64_t bytes = 0;
};

/// Per device: the bytes of persistent slices at time 0, then one point per change. A slice lives from the start of the
/// instruction that writes it to the end of the last one that touches it. O(instructions + slices log slices).
/// @pre the plan passed check_plan; entries in the plan's total order.
std::vector<std::vector<MemoryPoint>> memory_over_time(const Plan& plan, const Timeline& timeline);

}  // namespace mpc
