#pragma once

#include <optional>
#include <vector>

#include "passes/schedule/shop.h"

namespace mpc {

/// The task at `from` in the order of a device goes to `to`, and those between move by one.
struct Move {
  size_t device = 0;
  size_t from = 0;
  size_t to = 0;
};

/// Times orders that differ by one move from orders that have been timed: what ran before the tasks that move is not
/// looked at again. The seconds are those that Timer finds.
class MoveTimer {
 public:
  explicit MoveTimer(const Shop& shop);
  /// @pre `timing` is of these orders, finished. Both are copied. O(tasks).
  void start_from(const Orders& orders, const Timing& timing);
  /// @pre from != to
  /// @return the seconds of the step after the move; nothing where the move contradicts a dependency, or the step takes
  /// `limit_s` or more. O(tasks behind the move, and their arcs).
  std::optional<double> time(const Move& move, double limit_s);

 private:
  bool arrange_behind(TaskId mover, TaskId last);
  bool arrange_before(TaskId mover, TaskId first);
  std::optional<double> play(size_t begin, double limit_s);
  size_t rank(TaskId task) const { return rank_[static_cast<size_t>(task)]; }

  const Shop& shop_;
  Orders orders_;
  std::vector<TaskId> topological_;
  std::vector<size_t> rank_;       // [task] in topological_
  std::vector<double> start_s_;    // [task]
  std::vector<double> longest_s_;  // [rank]: end of what runs before
  std::vector<TaskId> before_;     // [task] on its device; -1: none
  std::vector<TaskId> behind_;     // [task] on its device; -1: none
  // Of the move that is timed:
  std::vector<TaskId> arranged_;     // from the first task that moves on
  std::vector<double> moved_end_s_;  // [task]
  std::vector<char> is_marked_;      // [task]
};

}  // namespace mpc
