#include "passes/schedule/schedule.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <tuple>

#include "compiler/base/error.h"

namespace mpc {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"sequential", "gpipe", "1f1b", "auto"};

// Plays one step in time. Deterministic: ties go by (preference, micro-batch, segment).
class Player {
 public:
  Player(const Segments& segments, int microbatches, bool has_tail, ScheduleKind kind)
      : segments_(segments), microbatches_(microbatches), has_tail_(has_tail), kind_(kind) {
    set_up_tasks();
    set_up_limits();
  }

  Schedule run() {
    while (done_count_ < tasks_.size()) start_next();
    Schedule schedule;
    schedule.kind = kind_;
    schedule.order = std::move(order_);
    for (const Task& task : schedule.order) schedule.step_seconds = std::max(schedule.step_seconds, task.end_s);
    double busy = 0;
    int used = 0;
    for (const double seconds : busy_s_) {
      busy += seconds;
      used += seconds > 0 ? 1 : 0;
    }
    if (used > 0 && schedule.step_seconds > 0) schedule.bubble = 1 - busy / (used * schedule.step_seconds);
    return schedule;
  }

 private:
  struct TaskState {
    int missing = 0;        // operands that have not been computed
    double ready_s = 0;     // when the last of them has arrived
  };

  int variant(int microbatch) const { return has_tail_ && microbatch == microbatches_ - 1 ? 1 : 0; }
  int instances(int segment) const { return segments_.segments[static_cast<size_t>(segment)].per_step ? 1 : microbatches_; }
  size_t task_index(int segment, int instance) const { return static_cast<size_t>(first_task_[static_cast<size_t>(segment)] + instance); }

  void set_up_tasks() {
    const int count = static_cast<int>(segments_.segments.size());
    int next = 0;
    for (int s = 0; s < count; ++s) {
      first_task_.push_back(next);
      next += instances(s);
    }
    tasks_.resize(static_cast<size_t>(next));
    outgoing_.resize(static_cast<size_t>(count));
    device_free_s_.assign(static_cast<size_t>(segments_.device_count), 0);
    busy_s_.assign(static_cast<size_t>(segments_.device_count), 0);
    ready_.resize(static_cast<size_t>(segments_.device_count));
    for (size_t e = 0; e < segments_.edges.size(); ++e) {
      const SegmentEdge& edge = segments_.edges[e];
      outgoing_[static_cast<size_t>(edge.from)].push_back(static_cast<int>(e));
      for (int i = 0; i < instances(edge.to); ++i) {
        tasks_[task_index(edge.to, i)].missing += segments_.segments[static_cast<size_t>(edge.to)].per_step ? instances(edge.from) : 1;
      }
    }
    for (int s = 0; s < count; ++s) {
      for (int i = 0; i < instances(s); ++i) {
        if (i > 0) ++tasks_[task_index(s, i)].missing;  // micro-batches of a segment ascend
        if (tasks_[task_index(s, i)].missing == 0) make_ready(s, i);
      }
    }
  }

  // 1F1B: a device at forward depth l of p keeps at most p - l micro-batches in flight.
  void set_up_limits() {
    const int count = segments_.device_count;
    std::vector<int> first_level(static_cast<size_t>(count), std::numeric_limits<int>::max());
    forward_left_.assign(static_cast<size_t>(count), std::vector<int>(static_cast<size_t>(microbatches_), 0));
    started_.assign(static_cast<size_t>(count), std::vector<bool>(static_cast<size_t>(microbatches_), false));
    in_flight_.assign(static_cast<size_t>(count), 0);
    limit_.assign(static_cast<size_t>(count), microbatches_);
    std::set<int> levels;
    bool has_backward = false;
    for (const Segment& segment : segments_.segments) {
      const size_t d = segment.device.index();
      has_backward = has_backward || segment.phase == SegmentPhase::backward;
      if (segment.per_step) continue;
      if (segment.phase == SegmentPhase::forward) {
        levels.insert(segment.level);
        first_level[d] = std::min(first_level[d], segment.level);
      }
      for (int& left : forward_left_[d]) ++left;
    }
    if (!has_backward || kind_ == ScheduleKind::gpipe) return;
    for (size_t d = 0; d < limit_.size(); ++d) {
      const auto behind = std::distance(levels.lower_bound(first_level[d]), levels.end());
      limit_[d] = kind_ == ScheduleKind::sequential ? 1 : std::max<int>(1, static_cast<int>(behind));
    }
  }

  void make_ready(int segment, int instance) {
    const Segment& s = segments_.segments[static_cast<size_t>(segment)];
    ready_[s.device.index()].emplace_back(segment, instance);
  }

  // Smaller is preferred among tasks that can start at the same time.
  std::tuple<int, int, int> preference(int segment, int instance) const {
    const Segment& s = segments_.segments[static_cast<size_t>(segment)];
    const int group = static_cast<int>(s.phase);
    if (kind_ == ScheduleKind::sequential) return {instance, group, segment};
    if (kind_ == ScheduleKind::gpipe) return {group, instance, segment};
    return {s.phase == SegmentPhase::backward ? 0 : 1, instance, segment};
  }

  // May this forward task begin a micro-batch on its device?
  bool is_admitted(int segment, int instance) const {
    const Segment& s = segments_.segments[static_cast<size_t>(segment)];
    if (s.per_step || s.phase != SegmentPhase::forward) return true;
    const size_t d = s.device.index();
    if (kind_ == ScheduleKind::sequential && instance > finished_microbatches_) return false;
    if (started_[d][static_cast<size_t>(instance)]) return true;
    if (instance > 0 && !started_[d][static_cast<size_t>(instance) - 1]) return false;
    return in_flight_[d] < limit_[d];
  }

  void start_next() {
    // The task that can start first; among those, the preferred one.
    using Key = std::tuple<double, std::tuple<int, int, int>>;
    Key best{std::numeric_limits<double>::infinity(), {}};
    size_t best_device = 0;
    size_t best_position = 0;
    bool found = false;
    for (size_t d = 0; d < ready_.size(); ++d) {
      for (size_t i = 0; i < ready_[d].size(); ++i) {
        const auto [segment, instance] = ready_[d][i];
        if (!is_admitted(segment, instance)) continue;
        const double start = std::max(device_free_s_[d], tasks_[task_index(segment, instance)].ready_s);
        const Key key{start, preference(segment, instance)};
        if (found && !(key < best)) continue;
        best = key;
        best_device = d;
        best_position = i;
        found = true;
      }
    }
    MPC_CHECK(found, "the schedule found no task to start");
    const auto [segment, instance] = ready_[best_device][best_position];
    ready_[best_device].erase(ready_[best_device].begin() + static_cast<std::ptrdiff_t>(best_position));
    execute(segment, instance, std::get<0>(best));
  }

  void execute(int segment, int instance, double start) {
    const Segment& s = segments_.segments[static_cast<size_t>(segment)];
    const size_t d = s.device.index();
    const int v = s.per_step ? 0 : variant(instance);
    const double seconds = s.seconds[static_cast<size_t>(v)];
    const double end = start + seconds;
    order_.push_back({segment, s.per_step ? -1 : instance, start, end});
    device_free_s_[d] = end;
    busy_s_[d] += seconds;
    ++done_count_;
    if (!s.per_step) count_in_flight(d, instance, end);
    for (const int e : outgoing_[static_cast<size_t>(segment)]) {
      const SegmentEdge& edge = segments_.edges[static_cast<size_t>(e)];
      const bool to_step = segments_.segments[static_cast<size_t>(edge.to)].per_step;
      const double arrival = end + edge.seconds[static_cast<size_t>(v)];
      if (s.per_step || to_step) {
        for (int i = 0; i < instances(edge.to); ++i) arrive(edge.to, i, arrival);
      } else {
        arrive(edge.to, instance, arrival);
      }
    }
    if (instance + 1 < instances(segment)) arrive(segment, instance + 1, end);
  }

  void count_in_flight(size_t d, int instance, double end) {
    const auto mb = static_cast<size_t>(instance);
    if (!started_[d][mb]) {
      started_[d][mb] = true;
      ++in_flight_[d];
    }
    if (--forward_left_[d][mb] > 0) return;
    --in_flight_[d];
    // Sequential: the next micro-batch begins when no device has work left for this one.
    while (finished_microbatches_ < microbatches_) {
      for (size_t other = 0; other < forward_left_.size(); ++other) {
        if (forward_left_[other][static_cast<size_t>(finished_microbatches_)] > 0) return;
      }
      ++finished_microbatches_;
      if (kind_ == ScheduleKind::sequential) {
        for (double& free_s : device_free_s_) free_s = std::max(free_s, end);
      }
    }
  }

  void arrive(int segment, int instance, double when) {
    TaskState& task = tasks_[task_index(segment, instance)];
    task.ready_s = std::max(task.ready_s, when);
    if (--task.missing == 0) make_ready(segment, instance);
  }

  const Segments& segments_;
  int microbatches_;
  bool has_tail_;
  ScheduleKind kind_;
  std::vector<int> first_task_;
  std::vector<TaskState> tasks_;
  std::vector<std::vector<int>> outgoing_;
  std::vector<std::vector<std::pair<int, int>>> ready_;  // [device] (segment, instance)
  std::vector<double> device_free_s_;
  std::vector<double> busy_s_;
  std::vector<std::vector<int>> forward_left_;  // [device][micro-batch]: its tasks that are not done
  std::vector<std::vector<bool>> started_;
  std::vector<int> in_flight_;
  std::vector<int> limit_;
  int finished_microbatches_ = 0;
  size_t done_count_ = 0;
  std::vector<Task> order_;
};

}  // namespace

std::optional<ScheduleKind> parse_schedule(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<ScheduleKind>(i);
  }
  return std::nullopt;
}

std::string_view schedule_name(ScheduleKind kind) { return kNames[static_cast<size_t>(kind)]; }

Schedule make_schedule(const Segments& segments, int microbatches, bool has_tail, ScheduleKind kind) {
  if (kind != ScheduleKind::automatic) return Player(segments, microbatches, has_tail, kind).run();
  // 1F1B comes first and stays unless another is clearly faster: of the overlapping ones it holds the fewest activations.
  constexpr double kClearly = 0.98;
  std::optional<Schedule> best;
  for (const ScheduleKind candidate : {ScheduleKind::one_f_one_b, ScheduleKind::gpipe, ScheduleKind::sequential}) {
    Schedule schedule = Player(segments, microbatches, has_tail, candidate).run();
    if (!best || schedule.step_seconds < kClearly * best->step_seconds) best = std::move(schedule);
  }
  return *best;
}

}  // namespace mpc
