#include "passes/place/parallel/stage_cost.h"

#include <algorithm>

namespace mpc::place {
namespace {

constexpr double kGradientAndTensor = 2;  // a tensor crosses forward, its gradient backward
constexpr double kSameTime = 1e-9;        // relative
constexpr double kReduceAndSpread = 4;  // bytes that a replica sends and receives per byte of gradients: a ring, twice

struct Point {
  int choice = 0;
  double memory = 0;
  double time = 0;
};

/// The choices of one node that are best for some price of memory, the fastest first: each next one is slower, smaller,
/// and saves less per time than the one before.
std::vector<Point> convex_hull(std::vector<Point> points) {
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) {
    return a.time != b.time ? a.time < b.time : a.memory != b.memory ? a.memory < b.memory : a.choice < b.choice;
  });
  std::vector<Point> hull;
  for (const Point& point : points) {
    if (!hull.empty() && point.memory >= hull.back().memory) continue;
    while (hull.size() >= 2) {
      const Point& before = hull[hull.size() - 2];
      const Point& last = hull.back();
      const double saved = before.memory - last.memory;
      const double saved_next = last.memory - point.memory;
      if ((last.time - before.time) * saved_next < (point.time - last.time) * saved) break;
      hull.pop_back();
    }
    hull.push_back(point);
  }
  return hull;
}

/// A node's step from one point of its hull to the next.
struct Step {
  size_t node = 0;  // of the stage
  size_t to = 0;    // point of the hull
  double saved = 0;
  double slower = 0;
};

/// Choices of the first nodes of a stage that no others undercut in both time and memory.
struct State {
  double time = 0;
  double memory = 0;
  int before = 0;  // state of the nodes before
  int point = 0;
};

/// The exact solution of the knapsack: node by node, every state that may still lead to less than `time`.
class Exact {
 public:
  Exact(const std::vector<std::vector<Point>>& points, double capacity) : points_(points), capacity_(capacity) {
    least_.assign(points.size() + 1, {});
    for (size_t i = points.size(); i-- > 0;) {
      double time = points[i].front().time;
      double memory = points[i].front().memory;
      for (const Point& point : points[i]) {
        time = std::min(time, point.time);
        memory = std::min(memory, point.memory);
      }
      least_[i] = {least_[i + 1].time + time, least_[i + 1].memory + memory, 0, 0};
    }
  }

  /// @return false when there are too many states to tell. Otherwise `chosen` holds a point per node when there is a
  /// solution below `time`, and is empty when there is none.
  bool solve(double time, std::vector<int>& chosen) {
    chosen.clear();
    std::vector<std::vector<State>> states = {{State{}}};
    for (size_t i = 0; i < points_.size(); ++i) {
      std::vector<State> next;
      for (size_t s = 0; s < states[i].size(); ++s) {
        for (size_t p = 0; p < points_[i].size(); ++p) {
          const State state{states[i][s].time + points_[i][p].time, states[i][s].memory + points_[i][p].memory,
                            static_cast<int>(s), static_cast<int>(p)};
          const bool may_win = state.time + least_[i + 1].time < time;
          if (may_win && state.memory + least_[i + 1].memory <= capacity_) next.push_back(state);
        }
      }
      std::stable_sort(next.begin(), next.end(), [](const State& a, const State& b) {
        return a.time != b.time ? a.time < b.time : a.memory < b.memory;
      });
      std::vector<State> kept;
      for (const State& state : next) {
        if (kept.empty() || state.memory < kept.back().memory) kept.push_back(state);
      }
      if (kept.empty()) return true;
      if (kept.size() > kMostStates) return false;
      states.push_back(std::move(kept));
    }
    chosen.resize(points_.size());
    int at = 0;  // the fastest
    for (size_t i = points_.size(); i-- > 0;) {
      const State& state = states[i + 1][static_cast<size_t>(at)];
      chosen[i] = state.point;
      at = state.before;
    }
    return true;
  }

 private:
  static constexpr size_t kMostStates = 256;

  const std::vector<std::vector<Point>>& points_;
  double capacity_;
  std::vector<State> least_;  // [node]: of it and those behind it
};

}  // namespace

double time_in_stage(const ParallelGraph& graph, int node, const ParallelChoice& choice,
                     const std::vector<char>& is_inside, int64_t replicas) {
  const ParallelNode& row = graph.nodes[static_cast<size_t>(node)];
  double bytes = 0;
  for (size_t i = 0; i < row.in.size(); ++i) {
    const ParallelEdge& edge = graph.edges[static_cast<size_t>(row.in[i])];
    if (is_inside[static_cast<size_t>(edge.from)] == 0) bytes += edge.bytes + choice.sync_in[i];
  }
  for (size_t i = 0; i < row.out.size(); ++i) {
    const ParallelEdge& edge = graph.edges[static_cast<size_t>(row.out[i])];
    if (is_inside[static_cast<size_t>(edge.to)] == 0) bytes += edge.bytes + choice.sync_out[i];
  }
  const auto d = static_cast<double>(replicas);
  const double reduced =
      kReduceAndSpread * (d - 1) * choice.parameter_bytes / d / static_cast<double>(graph.microbatches);
  return (choice.time + kGradientAndTensor * bytes / graph.bytes_per_time) / d + reduced / graph.bytes_per_time;
}

StageCost cost_of_stage(const ParallelGraph& graph, std::span<const int> nodes, const std::vector<char>& is_inside,
                        const Spread& spread, double limit) {
  StageCost cost;
  const auto in_flight = static_cast<double>(spread.in_flight);
  std::vector<std::vector<Point>> all;
  std::vector<std::vector<Point>> hulls;
  std::vector<Step> steps;
  double time = 0;
  double memory = 0;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const auto& choices = graph.nodes[static_cast<size_t>(nodes[i])].choices[spread.degree];
    if (choices.empty()) return cost;
    std::vector<Point> points;
    for (size_t c = 0; c < choices.size(); ++c) {
      const ParallelChoice& choice = choices[c];
      const double memory = choice.bytes_per_microbatch * in_flight + choice.fixed_bytes +
                            choice.bytes_over_replicas / static_cast<double>(spread.replicas);
      points.push_back(
          {static_cast<int>(c), memory, time_in_stage(graph, nodes[i], choice, is_inside, spread.replicas)});
    }
    hulls.push_back(convex_hull(points));
    all.push_back(std::move(points));
    const std::vector<Point>& hull = hulls.back();
    time += hull.front().time;
    memory += hull.front().memory;
    for (size_t p = 1; p < hull.size(); ++p)
      steps.push_back({i, p, hull[p - 1].memory - hull[p].memory, hull[p].time - hull[p - 1].time});
  }
  // On the hull of a node the ratios ascend, so its steps are taken in their order.
  std::stable_sort(steps.begin(), steps.end(),
                   [](const Step& a, const Step& b) { return a.slower * b.saved < b.slower * a.saved; });
  std::vector<size_t> at(nodes.size(), 0);
  size_t taken = 0;
  cost.time_bound = time;
  for (; memory > graph.memory_bytes && taken < steps.size(); ++taken) {
    const Step& step = steps[taken];
    const double missing = memory - graph.memory_bytes;
    cost.time_bound = time + step.slower * std::min(1.0, step.saved > 0 ? missing / step.saved : 1.0);
    at[step.node] = step.to;
    memory -= step.saved;
    time += step.slower;
  }
  if (memory > graph.memory_bytes) {
    cost.time_bound = kNever;
    return cost;
  }
  // Instead of the last step, a cheaper one that saves enough.
  if (taken > 0) {
    const Step& last = steps[taken - 1];
    const double missing = memory + last.saved - graph.memory_bytes;
    const Step* best = &last;
    for (size_t i = taken; i < steps.size(); ++i) {
      const bool is_next = at[steps[i].node] + 1 == steps[i].to && steps[i].node != last.node;
      if (is_next && steps[i].saved >= missing && steps[i].slower < best->slower) best = &steps[i];
    }
    if (best != &last) {
      at[last.node] = last.to - 1;
      at[best->node] = best->to;
      memory += last.saved - best->saved;
      time += best->slower - last.slower;
    }
  }
  // The last step may have made others needless: the dearest first.
  std::vector<Step> undo(steps.begin(), steps.begin() + static_cast<std::ptrdiff_t>(taken));
  std::stable_sort(undo.begin(), undo.end(), [](const Step& a, const Step& b) { return a.slower > b.slower; });
  for (const Step& step : undo) {
    if (at[step.node] != step.to || memory + step.saved > graph.memory_bytes) continue;
    at[step.node] = step.to - 1;
    memory += step.saved;
    time -= step.slower;
  }
  std::vector<const Point*> chosen;
  for (size_t i = 0; i < nodes.size(); ++i) chosen.push_back(&hulls[i][at[i]]);
  std::vector<int> best;
  const bool is_gap = time > cost.time_bound * (1 + kSameTime);
  const bool is_between = cost.time_bound <= limit && limit < time;
  if (is_gap && is_between && Exact(all, graph.memory_bytes).solve(time * (1 - kSameTime), best)) {
    cost.time_bound = kNever;  // what is chosen is the best
    for (size_t i = 0; i < best.size(); ++i) chosen[i] = &all[i][static_cast<size_t>(best[i])];
  }
  // Sums anew: those above carry the rounding of every step.
  cost.time = 0;
  for (const Point* point : chosen) {
    cost.time += point->time;
    cost.memory_bytes += point->memory;
    cost.choices.push_back(point->choice);
  }
  if (cost.memory_bytes > graph.memory_bytes) cost.time = kNever;  // by rounding alone
  cost.time_bound = std::min(cost.time_bound, cost.time);
  return cost;
}

}  // namespace mpc::place
