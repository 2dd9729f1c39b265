#include "passes/schedule/play.h"

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

#include "compiler/base/error.h"

namespace mpc {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

int phase_index(SegmentPhase phase) {
  return static_cast<int>(phase);
}

// What has been played so far: when tasks can start, what devices, links and memory are doing.
class Game {
 public:
  Game(const Segments& segments, int microbatches, bool has_tail)
      : segments_(segments), microbatches_(microbatches), has_tail_(has_tail) {
    const size_t count = segments.segments.size();
    const auto devices = static_cast<size_t>(segments.device_count);
    tasks_.resize(count * static_cast<size_t>(microbatches));
    outgoing_.resize(count);
    arrival_of_edge_.assign(segments.edges.size(), 0);
    opens_.resize(count);
    closes_.resize(count);
    ready_.resize(devices);
    device_free_s_.assign(devices, 0);
    busy_s_.assign(devices, 0);
    live_bytes_.assign(devices, 0);
    peak_bytes_.assign(devices, 0);
    changed_.assign(devices, true);
    count_operands();
    for (size_t k = 0; k < segments.kept.size(); ++k) {
      opens_[static_cast<size_t>(segments.kept[k].maker)].push_back(k);
      for (const int reader : segments.kept[k].readers) closes_[static_cast<size_t>(reader)].push_back(k);
      readers_left_.emplace_back(static_cast<size_t>(microbatches), static_cast<int>(segments.kept[k].readers.size()));
    }
  }

  const Segment& segment(int id) const { return segments_.segments[static_cast<size_t>(id)]; }
  int instances(int id) const { return segment(id).per_step ? 1 : microbatches_; }
  size_t task_count() const { return task_count_; }
  size_t done_count() const { return order_.size(); }
  bool is_ready(int id, int instance) const { return tasks_[task(id, instance)].missing == 0; }
  const std::vector<std::pair<int, int>>& ready(size_t device) const { return ready_[device]; }
  double start_s(int id, int instance) const {
    return std::max(device_free_s_[segment(id).device.index()], tasks_[task(id, instance)].ready_s);
  }
  int64_t live_bytes(size_t device) const { return live_bytes_[device]; }
  /// What the task would keep.
  int64_t opened_bytes(int id, int instance) const {
    int64_t bytes = 0;
    for (const size_t k : opens_[static_cast<size_t>(id)]) bytes += bytes_of(segments_.kept[k], instance);
    return bytes;
  }
  /// Has the device's state changed since the last call?
  bool take_changed(size_t device) {
    const bool changed = changed_[device];
    changed_[device] = false;
    return changed;
  }
  void mark_all_changed() { changed_.assign(changed_.size(), true); }
  void hold_devices_until(double moment_s) {
    for (double& free_s : device_free_s_) free_s = std::max(free_s, moment_s);
  }

  /// @return when it ends.
  double execute(int id, int instance) {
    const Segment& s = segment(id);
    const size_t d = s.device.index();
    const double start = start_s(id, instance);
    const int v = s.per_step ? 0 : variant(instance);
    const double seconds = s.seconds[static_cast<size_t>(v)];
    const double end = start + seconds;
    std::erase(ready_[d], std::pair(id, instance));
    order_.push_back({id, s.per_step ? -1 : instance, start, end});
    device_free_s_[d] = end;
    busy_s_[d] += seconds;
    changed_[d] = true;
    count_bytes(id, instance, d);
    for (const int e : outgoing_[static_cast<size_t>(id)]) send(static_cast<size_t>(e), instance, v, end);
    if (instance + 1 < instances(id)) arrive(id, instance + 1, end);
    return end;
  }

  Schedule finish(std::string name) {
    Schedule schedule;
    schedule.name = std::move(name);
    schedule.order = std::move(order_);
    for (const Task& task : schedule.order) schedule.step_seconds = std::max(schedule.step_seconds, task.end_s);
    double busy = 0;
    int used = 0;
    for (const double seconds : busy_s_) {
      busy += seconds;
      used += seconds > 0 ? 1 : 0;
    }
    if (used > 0 && schedule.step_seconds > 0) schedule.bubble = 1 - busy / (used * schedule.step_seconds);
    schedule.kept_bytes = std::move(peak_bytes_);
    return schedule;
  }

 private:
  struct TaskState {
    int missing = 0;     // operands that have not been computed
    double ready_s = 0;  // when the last of them has arrived
  };

  int variant(int microbatch) const { return has_tail_ && microbatch == microbatches_ - 1 ? 1 : 0; }
  size_t task(int id, int instance) const {
    return static_cast<size_t>(id) * static_cast<size_t>(microbatches_) + static_cast<size_t>(instance);
  }
  int64_t bytes_of(const KeptBytes& kept, int instance) const {
    return kept.bytes[std::min(kept.bytes.size() - 1, static_cast<size_t>(variant(instance)))];
  }

  void count_operands() {
    const int count = static_cast<int>(segments_.segments.size());
    for (size_t e = 0; e < segments_.edges.size(); ++e) {
      const SegmentEdge& edge = segments_.edges[e];
      outgoing_[static_cast<size_t>(edge.from)].push_back(static_cast<int>(e));
      const bool awaits_all = segment(edge.to).per_step && !segment(edge.from).per_step;
      for (int i = 0; i < instances(edge.to); ++i) tasks_[task(edge.to, i)].missing += awaits_all ? microbatches_ : 1;
    }
    for (int id = 0; id < count; ++id) {
      task_count_ += static_cast<size_t>(instances(id));
      for (int i = 1; i < instances(id); ++i) ++tasks_[task(id, i)].missing;
      if (is_ready(id, 0)) ready_[segment(id).device.index()].emplace_back(id, 0);
    }
  }

  void send(size_t e, int instance, int v, double end) {
    const SegmentEdge& edge = segments_.edges[e];
    const double seconds = edge.seconds[static_cast<size_t>(v)];
    double& arrival = arrival_of_edge_[e];
    arrival = end;
    if (edge.brought_by >= 0) {
      arrival = arrival_of_edge_[static_cast<size_t>(edge.brought_by)];
    } else if (seconds > 0) {
      double& link_free_s = link_free_s_[{segment(edge.from).device, segment(edge.to).device}];
      arrival = link_free_s = std::max(end, link_free_s) + seconds;
    }
    if (segment(edge.from).per_step || segment(edge.to).per_step) {
      for (int i = 0; i < instances(edge.to); ++i) arrive(edge.to, i, arrival);
    } else {
      arrive(edge.to, instance, arrival);
    }
  }

  void arrive(int id, int instance, double when) {
    TaskState& state = tasks_[task(id, instance)];
    state.ready_s = std::max(state.ready_s, when);
    if (--state.missing > 0) return;
    const size_t d = segment(id).device.index();
    ready_[d].emplace_back(id, instance);
    changed_[d] = true;
  }

  void count_bytes(int id, int instance, size_t d) {
    if (segment(id).per_step) return;
    live_bytes_[d] += opened_bytes(id, instance);
    peak_bytes_[d] = std::max(peak_bytes_[d], live_bytes_[d]);
    for (const size_t k : closes_[static_cast<size_t>(id)]) {
      if (--readers_left_[k][static_cast<size_t>(instance)] == 0)
        live_bytes_[d] -= bytes_of(segments_.kept[k], instance);
    }
  }

  const Segments& segments_;
  int microbatches_;
  bool has_tail_;
  size_t task_count_ = 0;
  std::vector<TaskState> tasks_;
  std::vector<std::vector<int>> outgoing_;               // [segment] edges
  std::vector<std::vector<std::pair<int, int>>> ready_;  // [device] (segment, instance)
  std::vector<double> device_free_s_;
  std::vector<double> busy_s_;
  std::map<std::pair<DeviceId, DeviceId>, double> link_free_s_;
  std::vector<double> arrival_of_edge_;     // the last time
  std::vector<std::vector<size_t>> opens_;  // [segment] into Segments::kept
  std::vector<std::vector<size_t>> closes_;
  std::vector<std::vector<int>> readers_left_;  // [kept][micro-batch]
  std::vector<int64_t> live_bytes_;
  std::vector<int64_t> peak_bytes_;
  std::vector<bool> changed_;
  std::vector<Task> order_;
};

// Counts what a rule limits, and picks by what it prefers.
class RulePlayer {
 public:
  RulePlayer(const Segments& segments, int microbatches, bool has_tail, const Rule& rule)
      : segments_(segments), microbatches_(microbatches), rule_(rule), game_(segments, microbatches, has_tail) {
    const auto devices = static_cast<size_t>(segments.device_count);
    const auto instances = static_cast<size_t>(microbatches);
    progress_.assign(devices, std::vector<Progress>(instances));
    in_flight_.assign(devices, 0);
    owed_.assign(devices, 0);
    has_backward_.assign(devices, false);
    last_phase_.assign(devices, SegmentPhase::weight);
    pick_of_device_.resize(devices);
    for (const Segment& s : segments.segments) {
      if (s.phase == SegmentPhase::backward && !s.per_step) has_backward_[s.device.index()] = true;
    }
    find_last_phases();
    if (rule.waits_for_forward) order_forward_tasks();
    for (const Segment& s : segments.segments) {
      if (s.per_step) continue;
      const size_t d = s.device.index();
      for (Progress& progress : progress_[d]) ++(is_owed(s) ? progress.weights_left : progress.tasks_left);
    }
  }

  Schedule run() {
    while (game_.done_count() < game_.task_count()) start_next();
    return game_.finish({});
  }

 private:
  /// Of a micro-batch on a device.
  struct Progress {
    int tasks_left = 0;
    int weights_left = 0;
    bool has_started = false;
  };
  using Preference = std::tuple<double, double, double, double>;
  struct Pick {
    double start_s = kNever;
    Preference preference;
    int segment = -1;
    int instance = 0;
    auto key() const { return std::tuple(start_s, preference, segment, instance); }
  };

  // The phase whose tasks end the flight of forward tasks: the other one where a device has none.
  void find_last_phases() {
    std::vector<bool> has_weight(has_backward_.size(), false);
    for (const Segment& s : segments_.segments) {
      if (s.phase == SegmentPhase::weight && !s.per_step) has_weight[s.device.index()] = true;
    }
    for (size_t d = 0; d < has_weight.size(); ++d) {
      const bool prefers_weight = rule_.in_flight == Rule::InFlight::until_weight;
      const bool is_weight = prefers_weight ? has_weight[d] : !has_backward_[d];
      last_phase_[d] = is_weight ? SegmentPhase::weight : SegmentPhase::backward;
    }
  }

  // Weight tasks of a device without backward tasks are what ends its micro-batches; they are not put off.
  bool is_owed(const Segment& s) const { return s.phase == SegmentPhase::weight && has_backward_[s.device.index()]; }

  Preference preference(int id, int instance) const {
    const Segment& s = game_.segment(id);
    const int rank = rule_.rank[static_cast<size_t>(phase_index(s.phase))];
    if (rule_.is_serial) return {instance, rank, id, 0};
    if (!rule_.urgency.empty()) return {rank, -rule_.urgency[static_cast<size_t>(id)], instance, id};
    if (rule_.is_deep_first) return {rank, -id, instance, 0};
    return {rank, instance / rule_.group, id, instance};
  }

  void order_forward_tasks() {
    forward_order_.resize(progress_.size());
    next_forward_.assign(progress_.size(), 0);
    for (int id = 0; id < static_cast<int>(segments_.segments.size()); ++id) {
      const Segment& s = game_.segment(id);
      if (s.per_step || s.phase != SegmentPhase::forward) continue;
      for (int i = 0; i < microbatches_; ++i) forward_order_[s.device.index()].emplace_back(id, i);
    }
    for (auto& order : forward_order_) {
      std::ranges::sort(order, {}, [&](const auto& task) { return preference(task.first, task.second); });
    }
  }

  bool is_admitted(int id, int instance) const {
    const Segment& s = game_.segment(id);
    const size_t d = s.device.index();
    if (s.per_step) return true;
    const bool must_pay = !rule_.most_owed.empty() && owed_[d] > rule_.most_owed[d];
    if (must_pay && !is_owed(s)) return false;
    if (s.phase != SegmentPhase::forward) return true;
    if (rule_.is_serial && instance > finished_) return false;
    if (rule_.waits_for_forward && forward_order_[d][next_forward_[d]] != std::pair(id, instance)) return false;
    if (!rule_.most_kept_bytes.empty()) {
      const int64_t opened = game_.opened_bytes(id, instance);
      if (opened > 0 && game_.live_bytes(d) + opened > rule_.most_kept_bytes[d]) return false;
    }
    if (rule_.most_in_flight.empty()) return true;
    if (rule_.in_flight == Rule::InFlight::microbatches) {
      const auto& progress = progress_[d];
      if (progress[static_cast<size_t>(instance)].has_started) return true;
      if (instance > 0 && !progress[static_cast<size_t>(instance) - 1].has_started) return false;
    }
    return in_flight_[d] < rule_.most_in_flight[d];
  }

  Pick best_of_device(size_t d, bool within_limits) const {
    Pick best;
    for (const auto& [id, instance] : game_.ready(d)) {
      if (within_limits && !is_admitted(id, instance)) continue;
      const Pick pick{game_.start_s(id, instance), preference(id, instance), id, instance};
      if (best.segment < 0 || pick.key() < best.key()) best = pick;
    }
    return best;
  }

  Pick best_of_all(bool within_limits) {
    Pick best;
    for (size_t d = 0; d < pick_of_device_.size(); ++d) {
      if (game_.take_changed(d) || !within_limits) pick_of_device_[d] = best_of_device(d, within_limits);
      const Pick& pick = pick_of_device_[d];
      if (pick.segment >= 0 && (best.segment < 0 || pick.key() < best.key())) best = pick;
    }
    if (!within_limits) game_.mark_all_changed();
    return best;
  }

  // The task that can start first; among those, the preferred one.
  void start_next() {
    Pick pick = best_of_all(true);
    if (pick.segment < 0) pick = best_of_all(false);
    MPC_CHECK(pick.segment >= 0, "the schedule found no task to start");
    const double end_s = game_.execute(pick.segment, pick.instance);
    if (!game_.segment(pick.segment).per_step) count(pick.segment, pick.instance, end_s);
  }

  void count(int id, int instance, double end_s) {
    const Segment& s = game_.segment(id);
    const size_t d = s.device.index();
    Progress& progress = progress_[d][static_cast<size_t>(instance)];
    const bool counts_microbatches = rule_.in_flight == Rule::InFlight::microbatches;
    if (counts_microbatches) {
      in_flight_[d] += progress.has_started ? 0 : 1;
    } else {
      in_flight_[d] += s.phase == SegmentPhase::forward ? 1 : s.phase == last_phase_[d] ? -1 : 0;
    }
    progress.has_started = true;
    if (rule_.waits_for_forward && s.phase == SegmentPhase::forward) take_from_order(d, {id, instance});
    if (is_owed(s)) {
      if (--progress.weights_left == 0 && progress.tasks_left == 0) --owed_[d];
    } else if (--progress.tasks_left == 0) {
      if (counts_microbatches) --in_flight_[d];
      if (progress.weights_left > 0) ++owed_[d];
    }
    while (rule_.is_serial && finished_ < microbatches_ && is_finished(finished_)) {
      ++finished_;
      game_.hold_devices_until(end_s);
      game_.mark_all_changed();
    }
  }

  // Forward tasks that were taken out of turn (see play) leave the order, too.
  void take_from_order(size_t d, std::pair<int, int> task) {
    auto& order = forward_order_[d];
    const auto next = order.begin() + static_cast<std::ptrdiff_t>(next_forward_[d]);
    if (*next == task) {
      ++next_forward_[d];
    } else {
      order.erase(std::find(next, order.end(), task));
    }
  }

  bool is_finished(int instance) const {
    return std::ranges::all_of(progress_, [&](const std::vector<Progress>& of_device) {
      const Progress& progress = of_device[static_cast<size_t>(instance)];
      return progress.tasks_left == 0 && progress.weights_left == 0;
    });
  }

  const Segments& segments_;
  int microbatches_;
  const Rule& rule_;
  Game game_;
  std::vector<std::vector<Progress>> progress_;  // [device][micro-batch]
  std::vector<int> in_flight_;
  std::vector<int> owed_;
  std::vector<bool> has_backward_;
  std::vector<SegmentPhase> last_phase_;
  std::vector<std::vector<std::pair<int, int>>> forward_order_;  // [device], for waits_for_forward
  std::vector<size_t> next_forward_;
  std::vector<Pick> pick_of_device_;
  int finished_ = 0;  // micro-batches that are done on all devices
};

}  // namespace

Schedule play(const Segments& segments, int microbatches, bool has_tail, const Rule& rule) {
  return RulePlayer(segments, microbatches, has_tail, rule).run();
}

std::optional<Schedule> play_order(const Segments& segments, int microbatches, bool has_tail,
                                   const std::vector<std::vector<TaskId>>& order_of_device) {
  Game game(segments, microbatches, has_tail);
  std::vector<size_t> position(order_of_device.size(), 0);
  while (game.done_count() < game.task_count()) {
    // The first to start goes first, so that transfers enter their links in the order of time.
    double first_s = kNever;
    size_t first = 0;
    for (size_t d = 0; d < order_of_device.size(); ++d) {
      if (position[d] == order_of_device[d].size()) continue;
      const TaskId task = order_of_device[d][position[d]];
      const int id = task / microbatches;
      if (!game.is_ready(id, task % microbatches)) continue;
      const double start_s = game.start_s(id, task % microbatches);
      if (start_s >= first_s) continue;
      first_s = start_s;
      first = d;
    }
    if (first_s == kNever) return std::nullopt;
    const TaskId task = order_of_device[first][position[first]++];
    game.execute(task / microbatches, task % microbatches);
  }
  return game.finish({});
}

std::vector<std::vector<TaskId>> orders_of(const Segments& segments, int microbatches, const Schedule& schedule) {
  std::vector<std::vector<TaskId>> orders(static_cast<size_t>(segments.device_count));
  for (const Task& task : schedule.order) {
    const Segment& segment = segments.segments[static_cast<size_t>(task.segment)];
    orders[segment.device.index()].push_back(task.segment * microbatches + std::max(task.microbatch, 0));
  }
  return orders;
}

}  // namespace mpc
