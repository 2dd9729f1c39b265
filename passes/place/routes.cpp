#include "passes/place/routes.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "passes/place/search/instance.h"

namespace mpc::place {
namespace {

constexpr int kNone = -1;
constexpr int kMostFirstDevices = 64;

Connection connect(const Cluster& cluster, int from, int to) {
  return {cluster.link(DeviceId(from), DeviceId(to)), cluster.link(DeviceId(to), DeviceId(from))};
}

/// Collects borders and steps, the steps of each way together.
class RouteMaker {
 public:
  using Border = std::array<int, 3>;  // state, kind or position of the last stage, of the next one

  int border(const Border& key) {
    const auto [found, is_new] = number_.emplace(key, static_cast<int>(borders_.size()));
    if (is_new) borders_.push_back(key);
    return found->second;
  }
  size_t count() const { return borders_.size(); }
  Border at(size_t number) const { return borders_[number]; }

  void step(const Border& from, const Border& to, const Way& way) {
    const std::array<int, 3> key = {from[1], from[2], to[2]};
    steps_.emplace_back(key, RouteStep{border(from), border(to)});
    way_.emplace(key, way);
  }
  size_t steps() const { return steps_.size(); }

  Routes routes() {
    Routes result;
    for (const Border& border : borders_) {
      result.state_of_border.push_back(border[0]);
      result.is_first.push_back(border[1] == kNone ? 1 : 0);
      result.is_last.push_back(border[2] == kNone ? 1 : 0);
    }
    std::ranges::stable_sort(steps_, {}, [](const auto& step) { return step.first; });
    for (size_t i = 0; i < steps_.size(); ++i) {
      if (i == 0 || steps_[i].first != steps_[i - 1].first) {
        result.ways.push_back(way_.at(steps_[i].first));
        result.ways.back().first_step = static_cast<int>(i);
      }
      result.steps.push_back(steps_[i].second);
      result.ways.back().last_step = static_cast<int>(i) + 1;
    }
    return result;
  }

 private:
  std::map<Border, int> number_;
  std::vector<Border> borders_;
  std::vector<std::pair<std::array<int, 3>, RouteStep>> steps_;
  std::map<std::array<int, 3>, Way> way_;
};

/// Tensors of weights may go against the order of stages: at the ends of the pipeline they are priced as within it.
void connect_ends(Way& way, bool is_first, bool is_last) {
  if (is_first) way.arrives = way.leaves;
  if (is_last) way.leaves = way.arrives;
}

}  // namespace

Routes routes_in_any_order(const Cluster& cluster, const Instance& instance, const DeviceSets& sets,
                           const std::vector<int>& devices, size_t most_steps) {
  const int kinds = static_cast<int>(instance.kinds.size());
  std::vector<int> first_of;  // [kind]: position in `devices`
  int position = 0;
  for (const DeviceKind& kind : instance.kinds) first_of.push_back(std::exchange(position, position + kind.count));
  const auto connection = [&](int from, int to) {
    const auto a = static_cast<size_t>(first_of[static_cast<size_t>(from)]);
    const auto b = static_cast<size_t>(first_of[static_cast<size_t>(to)]) + (from == to ? 1 : 0);
    return connect(cluster, devices[a], devices[b]);
  };
  RouteMaker maker;
  for (int kind = 0; kind < kinds; ++kind) maker.border({0, kNone, kind});
  for (size_t i = 0; i < maker.count(); ++i) {
    const RouteMaker::Border border = maker.at(i);
    const auto [state, last, kind] = border;
    if (kind == kNone) continue;
    const int used = state + sets.stride(kind);
    Way way{kind, {}, {}};
    if (last != kNone) way.arrives = connection(last, kind);
    for (int next = kNone; next < kinds; ++next) {
      if (next != kNone && !sets.has_room(used, next)) continue;
      Way with_next = way;
      if (next != kNone) with_next.leaves = connection(kind, next);
      connect_ends(with_next, last == kNone, next == kNone);
      maker.step(border, {used, kind, next}, with_next);
      if (maker.steps() > most_steps) return {};
    }
  }
  return maker.routes();
}

Routes routes_in_order(const Cluster& cluster, const Instance& instance, const std::vector<int>& devices,
                       const std::vector<int>& order) {
  RouteMaker maker;
  const int count = static_cast<int>(order.size());
  const auto connection = [&](int from, int to) {
    return connect(cluster, order[static_cast<size_t>(from)], order[static_cast<size_t>(to)]);
  };
  for (int i = 0; i < count; ++i) {
    const auto at = std::ranges::find(devices, order[static_cast<size_t>(i)]) - devices.begin();
    Way way{instance.kind_of(static_cast<int>(at)), {}, {}};
    if (i > 0) way.arrives = connection(i - 1, i);
    const RouteMaker::Border from = {i, i == 0 ? kNone : i - 1, i};
    for (const bool is_last : {false, true}) {
      if (!is_last && i + 1 == count) continue;
      Way with_next = way;
      if (!is_last) with_next.leaves = connection(i, i + 1);
      connect_ends(with_next, i == 0, is_last);
      maker.step(from, {i + 1, i, is_last ? kNone : i + 1}, with_next);
    }
  }
  return maker.routes();
}

std::vector<int> order_of_least_seconds(const Cluster& cluster, double bytes) {
  const int count = cluster.count();
  const auto seconds = [&](int from, int to) {
    const Link& link = cluster.link(DeviceId(from), DeviceId(to));
    return link.latency_s + bytes / link.bytes_per_second;
  };
  std::vector<int> best;
  double best_s = 0;
  for (int first = 0; first < std::min(count, kMostFirstDevices); ++first) {
    std::vector<int> order = {first};
    std::vector<int> left(static_cast<size_t>(count));
    std::iota(left.begin(), left.end(), 0);
    std::erase(left, first);
    double sum_s = 0;
    while (!left.empty()) {
      const int last = order.back();
      const auto nearest = std::ranges::min_element(left, {}, [&](int next) { return seconds(last, next); });
      sum_s += seconds(last, *nearest);
      order.push_back(*nearest);
      left.erase(nearest);
    }
    if (!best.empty() && sum_s >= best_s) continue;
    best = std::move(order);
    best_s = sum_s;
  }
  return best;
}

}  // namespace mpc::place
