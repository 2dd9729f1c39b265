#include "passes/place/critical_path.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "compiler/cost/estimate.h"

namespace mpc::place {
namespace {

/// [node]: seconds of the longest way from its start to the end, every node where it is fastest.
std::vector<double> urgency_of(const Graph& graph, const std::vector<std::vector<double>>& seconds_of_node) {
  const auto users = users_of(graph);
  std::vector<double> urgency(static_cast<size_t>(graph.node_count()), 0);
  for (size_t i = urgency.size(); i-- > 0;) {
    for (const ValueId output : graph.node(NodeId(static_cast<int>(i))).outputs) {
      if (!output.is_valid()) continue;
      for (const NodeId user : users[output.index()]) urgency[i] = std::max(urgency[i], urgency[user.index()]);
    }
    double least = seconds_of_node.front()[i];
    for (const std::vector<double>& of_device : seconds_of_node) least = std::min(least, of_device[i]);
    urgency[i] += least;
  }
  return urgency;
}

class PathBuilder {
 public:
  PathBuilder(const Graph& graph, const std::vector<int>& block_of_node, const std::vector<bool>& is_fixed,
              int microbatches)
      : graph_(graph), block_of_node_(block_of_node), is_fixed_(is_fixed), microbatches_(microbatches) {}

  CriticalPath run(const std::vector<std::vector<double>>& seconds_of_node) {
    const std::vector<double> urgency = urgency_of(graph_, seconds_of_node);
    std::vector<size_t> order(urgency.size());
    std::iota(order.begin(), order.end(), size_t{0});
    // Nodes of one urgency keep the order of their ids, so that none stands before what it reads.
    std::ranges::stable_sort(order, [&](size_t a, size_t b) { return urgency[a] > urgency[b]; });
    if (!order.empty()) path_.longest_s = urgency[order.front()];
    path_.seconds.resize(seconds_of_node.size());
    path_.read_count.resize(order.size(), 0);
    path_.makes.resize(order.size());
    value_of_.assign(static_cast<size_t>(graph_.value_count()), -1);
    for (size_t step = 0; step < order.size(); ++step) {
      path_.block.push_back(block_of_node_[order[step]]);
      for (size_t d = 0; d < seconds_of_node.size(); ++d) path_.seconds[d].push_back(seconds_of_node[d][order[step]]);
      add_values(graph_.node(NodeId(static_cast<int>(order[step]))), static_cast<int>(step));
    }
    return std::move(path_);
  }

 private:
  void add_values(const Node& node, int step) {
    const int block = path_.block[static_cast<size_t>(step)];
    for (const ValueId input : node.inputs) {
      if (!input.is_valid()) continue;
      const Value& value = graph_.value(input);
      int& index = value_of_[input.index()];
      // A parameter is at home with its first reader.
      if (index < 0 && value.kind == ValueKind::parameter) index = add_value(value, input, -1, block);
      if (index < 0) continue;
      std::vector<int>& readers = path_.values[static_cast<size_t>(index)].readers;
      if (!readers.empty() && readers.back() == step) continue;
      readers.push_back(step);
      ++path_.read_count[static_cast<size_t>(step)];
    }
    for (const ValueId output : node.outputs) {
      if (!output.is_valid()) continue;
      value_of_[output.index()] = add_value(graph_.value(output), output, step, block);
      path_.makes[static_cast<size_t>(step)].push_back(value_of_[output.index()]);
    }
  }

  int add_value(const Value& value, ValueId id, int maker, int home) {
    int64_t bytes = value.bytes();
    if (value.rate == Rate::per_step) bytes = std::max<int64_t>(1, bytes / microbatches_);
    path_.values.push_back({maker, home, {}, is_fixed_[id.index()] ? 0 : bytes});
    return static_cast<int>(path_.values.size()) - 1;
  }

  const Graph& graph_;
  const std::vector<int>& block_of_node_;
  const std::vector<bool>& is_fixed_;
  int microbatches_;
  CriticalPath path_;
  std::vector<int> value_of_;  // [value of the graph]: in path_.values, or -1
};

/// Plays one micro-batch. Steps start in the order of time, so that what a step releases is never too late to be seen.
class Player {
 public:
  Player(const CriticalPath& path, const Cluster& cluster, const std::vector<int>& device_of_block)
      : path_(path),
        cluster_(cluster),
        device_of_block_(device_of_block),
        k_(static_cast<size_t>(cluster.count())),
        devices_(k_),
        link_free_(k_ * k_, 0),
        arrival_(k_, 0),
        unread_(path.read_count),
        ready_(path.block.size(), 0) {}

  double run() {
    for (size_t step = 0; step < unread_.size(); ++step) {
      if (unread_[step] == 0) arrive(static_cast<int>(step));
    }
    for (const CriticalPath::Sent& value : path_.values) {
      if (value.maker < 0) send(value, device_of(value.home), 0);
    }
    double end = 0;
    while (OnDevice* next = next_device()) end = std::max(end, start_on(*next));
    return end;
  }

 private:
  using ByTime = std::pair<double, int>;  // (when its operands are there, step)
  struct OnDevice {
    double free_s = 0;
    std::vector<ByTime> coming;  // heap: the soonest first
    std::vector<int> waiting;    // heap: the most urgent first
  };

  size_t device_of(int block) const { return static_cast<size_t>(device_of_block_[static_cast<size_t>(block)]); }

  void arrive(int step) {
    std::vector<ByTime>& coming = devices_[device_of(path_.block[static_cast<size_t>(step)])].coming;
    coming.emplace_back(ready_[static_cast<size_t>(step)], step);
    std::ranges::push_heap(coming, std::greater{});
  }

  void send(const CriticalPath::Sent& value, size_t from, double made_s) {
    std::ranges::fill(arrival_, -1);
    arrival_[from] = made_s;
    for (const int reader : value.readers) {
      const size_t to = device_of(path_.block[static_cast<size_t>(reader)]);
      if (arrival_[to] < 0) {
        double& free_s = link_free_[from * k_ + to];
        if (value.bytes > 0)
          free_s = std::max(free_s, made_s) + transfer_seconds(value.bytes, cluster_.links[from * k_ + to]);
        arrival_[to] = value.bytes > 0 ? free_s : made_s;
      }
      double& ready_s = ready_[static_cast<size_t>(reader)];
      ready_s = std::max(ready_s, arrival_[to]);
      if (--unread_[static_cast<size_t>(reader)] == 0) arrive(reader);
    }
  }

  // The device that can start something first; null at the end.
  OnDevice* next_device() {
    OnDevice* best = nullptr;
    double best_s = 0;
    for (OnDevice& device : devices_) {
      if (device.waiting.empty() && device.coming.empty()) continue;
      const double start_s =
          device.waiting.empty() ? std::max(device.free_s, device.coming.front().first) : device.free_s;
      if (best != nullptr && start_s >= best_s) continue;
      best = &device;
      best_s = start_s;
    }
    return best;
  }

  // Returns when the step ends.
  double start_on(OnDevice& device) {
    if (device.waiting.empty()) device.free_s = std::max(device.free_s, device.coming.front().first);
    while (!device.coming.empty() && device.coming.front().first <= device.free_s) {
      std::ranges::pop_heap(device.coming, std::greater{});
      device.waiting.push_back(device.coming.back().second);
      std::ranges::push_heap(device.waiting, std::greater{});
      device.coming.pop_back();
    }
    std::ranges::pop_heap(device.waiting, std::greater{});
    const auto step = static_cast<size_t>(device.waiting.back());
    device.waiting.pop_back();
    const auto index = static_cast<size_t>(&device - devices_.data());
    device.free_s += path_.seconds[index][step];
    for (const int v : path_.makes[step]) send(path_.values[static_cast<size_t>(v)], index, device.free_s);
    return device.free_s;
  }

  const CriticalPath& path_;
  const Cluster& cluster_;
  const std::vector<int>& device_of_block_;
  size_t k_;
  std::vector<OnDevice> devices_;
  std::vector<double> link_free_;  // [from * k + to]
  std::vector<double> arrival_;    // [device]: of the value that is being sent; -1: it is not sent there
  std::vector<int> unread_;        // [step]: operands that have no time yet
  std::vector<double> ready_;      // [step]
};

}  // namespace

CriticalPath make_critical_path(const Graph& graph, const std::vector<int>& block_of_node,
                                const std::vector<std::vector<double>>& seconds_of_node,
                                const std::vector<bool>& is_fixed, int microbatches) {
  return PathBuilder(graph, block_of_node, is_fixed, microbatches).run(seconds_of_node);
}

double critical_path_s(const CriticalPath& path, const Cluster& cluster, const std::vector<int>& device_of_block) {
  return Player(path, cluster, device_of_block).run();
}

}  // namespace mpc::place
