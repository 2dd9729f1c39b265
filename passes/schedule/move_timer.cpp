#include "passes/schedule/move_timer.h"

#include <algorithm>

// A task that moves behind others of its device takes along, in a topological order, what depends on it and stood among
// them; one that moves before others takes along what it depends on. Only tasks between the two places of the
// order are looked at for that, and a task that would have to be on both sides shows that the move makes a cycle.

namespace mpc {
namespace {

constexpr double kRounding = 1e-12;  // relative: of sums of the same seconds in another order

}  // namespace

MoveTimer::MoveTimer(const Shop& shop)
    : shop_(shop), rank_(shop.count()), before_(shop.count()), behind_(shop.count()), is_marked_(shop.count()) {}

void MoveTimer::start_from(const Orders& orders, const Timing& timing) {
  orders_ = orders;
  topological_ = timing.topological;
  start_s_ = timing.start_s;
  moved_end_s_.resize(start_s_.size());
  longest_s_.resize(topological_.size());
  double longest_s = 0;
  for (size_t r = 0; r < topological_.size(); ++r) {
    const auto t = static_cast<size_t>(topological_[r]);
    rank_[t] = r;
    longest_s_[r] = longest_s;
    longest_s = std::max(longest_s, start_s_[t] + shop_.seconds[t]);
  }
  for (const auto& order : orders_) {
    for (size_t i = 0; i < order.size(); ++i) {
      before_[static_cast<size_t>(order[i])] = i > 0 ? order[i - 1] : -1;
      behind_[static_cast<size_t>(order[i])] = i + 1 < order.size() ? order[i + 1] : -1;
    }
  }
}

std::optional<double> MoveTimer::time(const Move& move, double limit_s) {
  const auto& order = orders_[move.device];
  const TaskId mover = order[move.from];
  const TaskId other = order[move.to];
  const bool goes_behind = move.from < move.to;
  const auto join = [&](TaskId first, TaskId second) {
    if (first >= 0) behind_[static_cast<size_t>(first)] = second;
    if (second >= 0) before_[static_cast<size_t>(second)] = first;
  };
  const TaskId left = before_[static_cast<size_t>(mover)];
  const TaskId right = behind_[static_cast<size_t>(mover)];
  const TaskId beyond = goes_behind ? behind_[static_cast<size_t>(other)] : before_[static_cast<size_t>(other)];
  join(left, right);
  if (goes_behind) {
    join(other, mover);
    join(mover, beyond);
  } else {
    join(beyond, mover);
    join(mover, other);
  }
  const bool is_possible = goes_behind ? arrange_behind(mover, other) : arrange_before(mover, other);
  const size_t begin = std::min(rank(mover), rank(other));
  std::optional<double> step_s;
  if (is_possible) step_s = play(begin, limit_s);
  if (goes_behind) {
    join(other, beyond);
  } else {
    join(beyond, other);
  }
  join(left, mover);
  join(mover, right);
  return step_s;
}

bool MoveTimer::arrange_behind(TaskId mover, TaskId last) {
  const size_t begin = rank(mover);
  const size_t end = rank(last);
  const auto marked = [&](TaskId task) -> char& { return is_marked_[static_cast<size_t>(task)]; };
  arranged_.clear();
  marked(mover) = 1;
  for (size_t r = begin + 1; r <= end; ++r) {
    const TaskId task = topological_[r];
    const TaskId before = before_[static_cast<size_t>(task)];
    bool depends = before >= 0 && marked(before) != 0;
    for (const Arc& arc : shop_.before(task)) depends = depends || marked(arc.to) != 0;
    marked(task) = depends ? 1 : 0;
    if (!depends) arranged_.push_back(task);
  }
  const bool is_cycle = marked(last) != 0;
  for (size_t r = begin; r <= end; ++r) {
    const TaskId task = topological_[r];
    if (marked(task) != 0) arranged_.push_back(task);
    marked(task) = 0;
  }
  return !is_cycle;
}

bool MoveTimer::arrange_before(TaskId mover, TaskId first) {
  const size_t begin = rank(first);
  const size_t end = rank(mover);
  const auto marked = [&](TaskId task) -> char& { return is_marked_[static_cast<size_t>(task)]; };
  marked(mover) = 1;
  for (size_t r = end; r-- > begin;) {
    const TaskId task = topological_[r];
    const TaskId behind = behind_[static_cast<size_t>(task)];
    bool is_needed = behind >= 0 && marked(behind) != 0;
    for (const Arc& arc : shop_.after(task)) is_needed = is_needed || marked(arc.to) != 0;
    marked(task) = is_needed ? 1 : 0;
  }
  const bool is_cycle = marked(first) != 0;
  arranged_.clear();
  for (const char wanted : {char{1}, char{0}}) {
    for (size_t r = begin; r <= end; ++r) {
      if (marked(topological_[r]) == wanted) arranged_.push_back(topological_[r]);
    }
  }
  for (size_t r = begin; r <= end; ++r) marked(topological_[r]) = 0;
  return !is_cycle;
}

std::optional<double> MoveTimer::play(size_t begin, double limit_s) {
  const double hopeless_s = limit_s * (1 + kRounding);
  double step_s = longest_s_[begin];
  const auto end_s = [&](TaskId task) {
    const auto t = static_cast<size_t>(task);
    return rank_[t] < begin ? start_s_[t] + shop_.seconds[t] : moved_end_s_[t];
  };
  const auto run = [&](TaskId task) {
    const auto t = static_cast<size_t>(task);
    double start_s = before_[t] >= 0 ? end_s(before_[t]) : 0;
    for (const Arc& arc : shop_.before(task)) start_s = std::max(start_s, end_s(arc.to) + arc.lag_s);
    const double end = moved_end_s_[t] = start_s + shop_.seconds[t];
    step_s = std::max(step_s, end);
    return end + shop_.tail_s[t] < hopeless_s;
  };
  for (const TaskId task : arranged_) {
    if (!run(task)) return std::nullopt;
  }
  for (size_t r = begin + arranged_.size(); r < topological_.size(); ++r) {
    if (!run(topological_[r])) return std::nullopt;
  }
  if (step_s >= limit_s) return std::nullopt;
  return step_s;
}

}  // namespace mpc
