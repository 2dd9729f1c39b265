#include "passes/schedule/shop.h"

#include <algorithm>
#include <limits>

namespace mpc {
namespace {

struct LinkedPair {
  TaskId from = 0;
  TaskId to = 0;
  double lag_s = 0;
};

// Arcs of one task lie together, in the order of `pairs`.
void fill_rows(const std::vector<LinkedPair>& pairs, size_t count, TaskId LinkedPair::*owner, TaskId LinkedPair::*other,
               std::vector<size_t>& begin, std::vector<Arc>& arcs) {
  begin.assign(count + 1, 0);
  for (const LinkedPair& pair : pairs) ++begin[static_cast<size_t>(pair.*owner) + 1];
  for (size_t t = 0; t < count; ++t) begin[t + 1] += begin[t];
  arcs.resize(pairs.size());
  std::vector<size_t> next(begin.begin(), begin.end() - 1);
  for (const LinkedPair& pair : pairs) arcs[next[static_cast<size_t>(pair.*owner)]++] = {pair.*other, pair.lag_s};
}

}  // namespace

Shop::Shop(const Segments& segments, int microbatches, bool has_tail) : device_count(segments.device_count) {
  const size_t count = segments.segments.size() * static_cast<size_t>(microbatches);
  const auto instances = [&](int s) { return segments.segments[static_cast<size_t>(s)].per_step ? 1 : microbatches; };
  const auto task = [&](int s, int i) { return static_cast<TaskId>(s * microbatches + i); };
  seconds.assign(count, 0);
  device.assign(count, -1);
  std::vector<LinkedPair> pairs;
  for (int s = 0; s < static_cast<int>(segments.segments.size()); ++s) {
    const Segment& segment = segments.segments[static_cast<size_t>(s)];
    for (int i = 0; i < instances(s); ++i) {
      const bool is_tail = has_tail && i == microbatches - 1 && !segment.per_step;
      seconds[static_cast<size_t>(task(s, i))] = segment.seconds[is_tail ? 1 : 0];
      device[static_cast<size_t>(task(s, i))] = static_cast<int>(segment.device.index());
      if (i > 0) pairs.push_back({task(s, i - 1), task(s, i), 0});
    }
  }
  for (const SegmentEdge& edge : segments.edges) {
    const int most = std::max(instances(edge.from), instances(edge.to));
    for (int i = 0; i < most; ++i) {
      const bool is_tail = has_tail && i == microbatches - 1 && instances(edge.from) > 1;
      pairs.push_back({task(edge.from, std::min(i, instances(edge.from) - 1)),
                       task(edge.to, std::min(i, instances(edge.to) - 1)), edge.seconds[is_tail ? 1 : 0]});
    }
  }
  fill_rows(pairs, count, &LinkedPair::from, &LinkedPair::to, after_begin_, after_);
  fill_rows(pairs, count, &LinkedPair::to, &LinkedPair::from, before_begin_, before_);
  before_counts.resize(count);
  for (size_t t = 0; t < count; ++t) {
    before_counts[t] = static_cast<int>(before(static_cast<TaskId>(t)).size());
    if (device[t] >= 0 && before_counts[t] == 0) roots.push_back(static_cast<TaskId>(t));
  }
  tail_s.assign(count, 0);
  Timing free;  // as if every task had a device of its own
  Timer(*this).time({}, free);
  for (size_t i = free.topological.size(); i-- > 0;) {
    const auto t = static_cast<size_t>(free.topological[i]);
    for (const Arc& arc : after(free.topological[i])) {
      const auto to = static_cast<size_t>(arc.to);
      tail_s[t] = std::max(tail_s[t], arc.lag_s + seconds[to] + tail_s[to]);
    }
  }
  head_s = std::move(free.start_s);
}

Timer::Timer(const Shop& shop) : shop_(shop), missing_(shop.count()), next_(shop.count()) {}

bool Timer::time(const Orders& orders, Timing& timing) {
  const size_t count = shop_.count();
  timing.step_s = 0;
  timing.start_s.assign(count, 0);
  timing.topological.clear();
  std::fill(next_.begin(), next_.end(), -1);
  std::copy(shop_.before_counts.begin(), shop_.before_counts.end(), missing_.begin());
  size_t tasks = 0;
  for (const auto& order : orders) {
    tasks += order.size();
    for (size_t i = 1; i < order.size(); ++i) {
      next_[static_cast<size_t>(order[i - 1])] = order[i];
      ++missing_[static_cast<size_t>(order[i])];
    }
  }
  for (const TaskId root : shop_.roots) {
    if (missing_[static_cast<size_t>(root)] == 0) timing.topological.push_back(root);
  }
  const auto reach = [&](TaskId to, double when) {
    double& start_s = timing.start_s[static_cast<size_t>(to)];
    start_s = std::max(start_s, when);
    if (--missing_[static_cast<size_t>(to)] == 0) timing.topological.push_back(to);
  };
  for (size_t i = 0; i < timing.topological.size(); ++i) {
    const TaskId task = timing.topological[i];
    const auto t = static_cast<size_t>(task);
    const double end = timing.start_s[t] + shop_.seconds[t];
    timing.step_s = std::max(timing.step_s, end);
    if (next_[t] >= 0) reach(next_[t], end);
    for (const Arc& arc : shop_.after(task)) reach(arc.to, end + arc.lag_s);
  }
  return timing.topological.size() == tasks;
}

double least_step_seconds(const Shop& shop) {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  struct OfDevice {
    double head_s = kNever, work_s = 0, tail_s = kNever;
  };
  std::vector<OfDevice> devices(static_cast<size_t>(shop.device_count));
  double bound = 0;
  for (size_t t = 0; t < shop.count(); ++t) {
    if (shop.device[t] < 0) continue;
    OfDevice& device = devices[static_cast<size_t>(shop.device[t])];
    device.head_s = std::min(device.head_s, shop.head_s[t]);
    device.tail_s = std::min(device.tail_s, shop.tail_s[t]);
    device.work_s += shop.seconds[t];
    bound = std::max(bound, shop.head_s[t] + shop.seconds[t] + shop.tail_s[t]);
  }
  for (const OfDevice& device : devices) {
    if (device.work_s > 0) bound = std::max(bound, device.head_s + device.work_s + device.tail_s);
  }
  return bound;
}

}  // namespace mpc
