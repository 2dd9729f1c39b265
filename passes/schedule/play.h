#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "passes/schedule/segments.h"

namespace mpc {

/// One segment for one micro-batch (or for the step: microbatch == -1).
struct Task {
  int segment = 0;
  int microbatch = -1;
  double start_s = 0;
  double end_s = 0;
};

/// The tasks of a step in one order in which every task comes after what it needs; each device executes its tasks in
/// this order.
struct Schedule {
  std::vector<Task> order;
  double step_seconds = 0;
  double bubble = 0;                // idle share of the devices that have tasks
  std::vector<int64_t> kept_bytes;  // [device]: the most that micro-batches keep at once (Segments::kept)
  std::string name;                 // of the rule, or "auto" for an order that no rule makes
};

// How orders are made: the step is played in time with the segments' predicted durations. Whenever a device is free it
// takes, among the tasks whose operands have arrived and that its rule admits, the one that its rule prefers. Tasks of
// one segment ascend in micro-batches, so sums over micro-batches have one order. Dependencies are the graph's edges:
// skips, branches and shared weights need nothing special. A link carries one transfer at a time.

/// All that distinguishes the schedules.
struct Rule {
  /// Of forward, backward, weight and update tasks: the smaller goes first among those that can start at the same time.
  std::array<int, 4> rank = {1, 0, 0, 2};
  /// So many micro-batches pass one segment of a device before the first of them passes the next one.
  int group = 1;
  /// Later segments of a device first, whatever the micro-batch.
  bool is_deep_first = false;
  /// Forward tasks in exactly the preferred order, waiting for the next one where it is not ready.
  bool waits_for_forward = false;
  /// [device]: forward work begins only while less than this is in flight there. Empty: no limit.
  std::vector<int> most_in_flight;
  /// What is in flight: micro-batches from the first forward to the last backward task on the device, forward tasks
  /// until a backward task follows, or forward tasks until a weight task follows.
  enum class InFlight : uint8_t { microbatches, until_backward, until_weight };
  InFlight in_flight = InFlight::microbatches;
  /// [device]: when more micro-batches than this are done but for their weight tasks, only weight tasks are taken.
  std::vector<int> most_owed;
  /// [device]: a forward task begins only where what is kept stays within this. Empty: no limit.
  std::vector<int64_t> most_kept_bytes;
  /// One micro-batch is finished on all devices before the next begins.
  bool is_serial = false;
  /// [segment]: instead of micro-batches and levels, the larger goes first among tasks of equal rank.
  std::vector<double> urgency;
};

/// Plays a step by a rule. Where the limits of the rule would let no task begin any more, the preferred task begins in
/// spite of them. Deterministic. O(T (S + D)) in tasks T, segments per device S and devices D.
Schedule play(const Segments& segments, int microbatches, bool has_tail, const Rule& rule);

/// A task by number: segment * microbatches + micro-batch (per-step segments: micro-batch 0).
using TaskId = int32_t;

/// Plays a step in a given order of each device's tasks. @return nothing when the orders contradict the dependencies.
std::optional<Schedule> play_order(const Segments& segments, int microbatches, bool has_tail,
                                   const std::vector<std::vector<TaskId>>& order_of_device);

/// The orders of the devices in a schedule.
std::vector<std::vector<TaskId>> orders_of(const Segments& segments, int microbatches, const Schedule& schedule);

}  // namespace mpc
