#include "tests/passes/cost_graph_cases.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "passes/place/search/instance.h"

namespace mpc::place::test {

CostGraph random_graph(uint64_t seed, const GraphOptions& options) {
  Random random(seed);
  CostGraph graph;
  graph.gpus = options.gpus;
  graph.cpus = options.cpus;
  graph.colors = options.blocks;
  double memory = 0;
  const auto add = [&](int color, bool is_backward) {
    CostNode node;
    node.id = 1000 + static_cast<int64_t>(graph.nodes.size()) * 7;
    node.gpu_time = random.below(options.one_without_time) == 0 ? 0 : 1 + random.below(100);
    node.cpu_ok = options.cpus > 0 && random.below(5) != 0;
    node.cpu_time = node.cpu_ok ? node.gpu_time * (1 + random.below(10)) : 0;
    node.memory_bytes = random.below(50);
    node.tensor_cost = random.below(4) == 0 ? 0 : random.below(40);
    node.color = color;
    node.is_backward = is_backward;
    memory += node.memory_bytes;
    graph.nodes.push_back(node);
    return static_cast<int>(graph.nodes.size()) - 1;
  };
  std::vector<int> forward, backward;
  for (int block = 0; block < options.blocks; ++block) {
    const bool is_backward_only = options.is_training && random.below(8) == 0;
    forward.push_back(is_backward_only ? -1 : add(block, false));
    backward.push_back(options.is_training ? add(block, true) : -1);
    if (!is_backward_only && random.below(8) == 0) forward.back() = add(block, false);  // a second node of the colour
  }
  for (int b = 1; b < options.blocks; ++b) {
    for (int tries = 1 + random.below(2); tries > 0; --tries) {
      const int a = random.below(b);
      const auto link = [&](int from, int to) {
        if (from >= 0 && to >= 0) graph.edges.push_back({from, to});
      };
      link(forward[static_cast<size_t>(a)], forward[static_cast<size_t>(b)]);
      link(backward[static_cast<size_t>(b)], backward[static_cast<size_t>(a)]);
      if (random.below(2) == 0) link(forward[static_cast<size_t>(a)], backward[static_cast<size_t>(b)]);
    }
  }
  const auto key = [](const CostEdge& edge) { return std::pair(edge.from, edge.to); };
  std::sort(graph.edges.begin(), graph.edges.end(),
            [&](const CostEdge& a, const CostEdge& b) { return key(a) < key(b); });
  graph.edges.erase(std::unique(graph.edges.begin(), graph.edges.end(),
                                [&](const CostEdge& a, const CostEdge& b) { return key(a) == key(b); }),
                    graph.edges.end());
  graph.gpu_memory_bytes = std::floor(memory / options.gpus * options.memory_share) + 1;
  return graph;
}

CostGraph equal_blocks(int blocks, double seconds, double tensor_cost) {
  CostGraph graph;
  graph.colors = blocks;
  for (int i = 0; i < blocks; ++i) {
    CostNode node;
    node.id = i;
    node.gpu_time = seconds;
    node.tensor_cost = tensor_cost;
    node.color = i;
    graph.nodes.push_back(node);
  }
  return graph;
}

CostGraph row_of_blocks(int blocks, double seconds, double tensor_cost) {
  CostGraph graph = equal_blocks(blocks, seconds, tensor_cost);
  for (int i = 1; i < blocks; ++i) graph.edges.push_back({i - 1, i});
  return graph;
}

CostGraph rewritten(const CostGraph& graph, double unit, Random& random) {
  const auto any_order = [&](int count) {
    std::vector<int> order;
    for (int i = 0; i < count; ++i) order.insert(order.begin() + random.below(i + 1), i);
    return order;
  };
  const std::vector<int> place = any_order(static_cast<int>(graph.nodes.size())), color = any_order(graph.colors);
  CostGraph other = graph;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    CostNode& node = other.nodes[static_cast<size_t>(place[i])] = graph.nodes[i];
    node.gpu_time *= unit;
    node.cpu_time *= unit;
    node.tensor_cost *= unit;
    node.color = color[static_cast<size_t>(node.color)];
  }
  for (CostEdge& edge : other.edges)
    edge = {place[static_cast<size_t>(edge.from)], place[static_cast<size_t>(edge.to)]};
  std::sort(other.edges.begin(), other.edges.end(),
            [](const CostEdge& a, const CostEdge& b) { return std::pair(a.from, a.to) < std::pair(b.from, b.to); });
  return other;
}

std::optional<double> naive_value(const CostGraph& graph, const std::vector<int>& device_of_node) {
  std::map<int, int> device_of_color;
  std::map<int, double> load, memory;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const CostNode& node = graph.nodes[i];
    const int device = device_of_node[i];
    if (device_of_color.emplace(node.color, device).first->second != device) return std::nullopt;
    const bool is_gpu = device < graph.gpus;
    if (is_gpu ? !node.gpu_ok : !node.cpu_ok) return std::nullopt;
    load[device] += is_gpu ? node.gpu_time : node.cpu_time;
    if (is_gpu) memory[device] += node.memory_bytes;
  }
  for (const auto& [device, bytes] : memory) {
    if (bytes > graph.gpu_memory_bytes * (1 + 1e-12)) return std::nullopt;
  }
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    std::set<int> receivers;
    for (const CostEdge& edge : graph.edges) {
      if (edge.from == static_cast<int>(i)) receivers.insert(device_of_node[static_cast<size_t>(edge.to)]);
    }
    receivers.erase(device_of_node[i]);
    if (!receivers.empty() && device_of_node[i] < graph.gpus) load[device_of_node[i]] += graph.nodes[i].tensor_cost;
    for (const int device : receivers) {
      if (device < graph.gpus) load[device] += graph.nodes[i].tensor_cost;
    }
  }
  double largest = 0;
  for (const auto& [device, value] : load) largest = std::max(largest, value);
  return largest;
}

bool is_staged(const CostGraph& graph, const std::vector<int>& device_of_node) {
  std::set<int> with_forward;
  for (const CostNode& node : graph.nodes) {
    if (!node.is_backward) with_forward.insert(node.color);
  }
  std::set<std::pair<int, int>> order;
  for (const CostEdge& edge : graph.edges) {
    const CostNode& from = graph.nodes[static_cast<size_t>(edge.from)];
    const CostNode& to = graph.nodes[static_cast<size_t>(edge.to)];
    const int a = device_of_node[static_cast<size_t>(edge.from)], b = device_of_node[static_cast<size_t>(edge.to)];
    if (a == b) continue;
    if (!from.is_backward && !to.is_backward) order.emplace(a, b);
    const bool is_orphan = !with_forward.contains(from.color) || !with_forward.contains(to.color);
    if (from.is_backward && to.is_backward && is_orphan) order.emplace(b, a);
  }
  std::set<int> left;
  for (const int device : device_of_node) left.insert(device);
  while (!left.empty()) {
    const auto first = std::find_if(left.begin(), left.end(), [&](int device) {
      return std::none_of(order.begin(), order.end(),
                          [&](const auto& pair) { return pair.second == device && left.contains(pair.first); });
    });
    if (first == left.end()) return false;
    left.erase(first);
  }
  return true;
}

double brute_force(const CostGraph& graph, bool contiguous) {
  const int devices = graph.gpus + graph.cpus;
  std::vector<int> device_of_color(static_cast<size_t>(graph.colors), 0), device_of_node(graph.nodes.size());
  double best = kForbidden;
  const std::function<void(int)> visit = [&](int color) {
    if (color == graph.colors) {
      for (size_t i = 0; i < graph.nodes.size(); ++i) {
        device_of_node[i] = device_of_color[static_cast<size_t>(graph.nodes[i].color)];
      }
      const std::optional<double> value = naive_value(graph, device_of_node);
      if (value && *value < best && (!contiguous || is_staged(graph, device_of_node))) best = *value;
      return;
    }
    int unused = 0;  // GPUs are alike: of those without a colour the first stands for all
    for (int c = 0; c < color; ++c) {
      const int device = device_of_color[static_cast<size_t>(c)];
      if (device < graph.gpus) unused = std::max(unused, device + 1);
    }
    for (int device = 0; device < devices; ++device) {
      if (device < graph.gpus && device > unused) continue;
      device_of_color[static_cast<size_t>(color)] = device;
      visit(color + 1);
    }
  };
  visit(0);
  return best;
}

}  // namespace mpc::place::test
