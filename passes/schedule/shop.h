#pragma once

#include <span>
#include <vector>

#include "passes/schedule/play.h"

namespace mpc {

// A step as a job shop, where devices are machines and micro-batches are jobs: what a search over orders times again
// and again. Links are delays here; play_order knows that they carry one transfer at a time.

/// `to` may begin `lag_s` after the task whose arc this is ends (before: the other way round).
struct Arc {
  TaskId to = 0;
  double lag_s = 0;
};

/// Tasks with what orders them whatever the devices do.
class Shop {
 public:
  Shop(const Segments& segments, int microbatches, bool has_tail);

  size_t count() const { return seconds.size(); }
  std::span<const Arc> after(TaskId task) const { return row(after_, after_begin_, task); }
  std::span<const Arc> before(TaskId task) const { return row(before_, before_begin_, task); }

  std::vector<double> seconds;     // [task]
  std::vector<double> head_s;      // [task]: no order begins it earlier
  std::vector<double> tail_s;      // [task]: no order ends the step sooner after it
  std::vector<int> device;         // [task]; -1: there is no such task
  std::vector<int> before_counts;  // [task]: arcs that end there
  std::vector<TaskId> roots;       // tasks that wait for none, ascending
  int device_count = 0;

 private:
  static std::span<const Arc> row(const std::vector<Arc>& arcs, const std::vector<size_t>& begin, TaskId task) {
    const auto t = static_cast<size_t>(task);
    return {arcs.data() + begin[t], begin[t + 1] - begin[t]};
  }

  std::vector<size_t> after_begin_, before_begin_;  // [task] into after_, before_; one more at the end
  std::vector<Arc> after_, before_;
};

/// [device] its tasks in their order.
using Orders = std::vector<std::vector<TaskId>>;

/// Times of an order, and what makes them.
struct Timing {
  double step_s = 0;
  std::vector<double> start_s;  // [task]
  std::vector<TaskId> topological;
};

/// Times orders of one shop; holds what it needs for that, so that a search allocates nothing.
class Timer {
 public:
  explicit Timer(const Shop& shop);
  /// @return whether the orders contradict no dependency. O(tasks + arcs).
  bool time(const Orders& orders, Timing& timing);

 private:
  const Shop& shop_;
  std::vector<int> missing_;
  std::vector<TaskId> next_;
};

/// What no order of the devices takes less than: no device is done before its first task can begin, all its work is
/// done, and what must follow its last task is done. O(tasks + arcs).
double least_step_seconds(const Shop& shop);

}  // namespace mpc
