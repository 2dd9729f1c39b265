#include "passes/place/search/contract.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace mpc::place {
namespace {

using Pair = std::pair<int, int>;

void make_unique(std::vector<Pair>& pairs) {
  std::sort(pairs.begin(), pairs.end());
  pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
}

std::vector<Pair> reversed(std::vector<Pair> pairs) {
  for (Pair& pair : pairs) std::swap(pair.first, pair.second);
  return pairs;
}

/// Pairs (a, b) of colours: a stands on the same or an earlier stage than b.
std::vector<Pair> stage_order(const CostGraph& graph) {
  std::vector<char> has_forward(static_cast<size_t>(graph.colors), 0);
  for (const CostNode& node : graph.nodes) {
    if (!node.is_backward) has_forward[static_cast<size_t>(node.color)] = 1;
  }
  std::vector<Pair> order;
  for (const CostEdge& edge : graph.edges) {
    const CostNode& from = graph.nodes[static_cast<size_t>(edge.from)];
    const CostNode& to = graph.nodes[static_cast<size_t>(edge.to)];
    if (from.color == to.color) continue;
    const bool has_twins =
        has_forward[static_cast<size_t>(from.color)] != 0 && has_forward[static_cast<size_t>(to.color)] != 0;
    if (!from.is_backward && !to.is_backward) order.emplace_back(from.color, to.color);
    if (from.is_backward && to.is_backward && !has_twins) order.emplace_back(to.color, from.color);
  }
  make_unique(order);
  return order;
}

/// The same pairs between the blocks that the colours went into.
std::vector<Pair> between_blocks(const std::vector<Pair>& order, const std::vector<int>& block_of_color) {
  std::vector<Pair> result;
  for (const Pair& pair : order) {
    const int a = block_of_color[static_cast<size_t>(pair.first)];
    const int b = block_of_color[static_cast<size_t>(pair.second)];
    if (a != b) result.emplace_back(a, b);
  }
  make_unique(result);
  return result;
}

void renumber(std::vector<int>& block_of_node, const std::vector<int>& new_number) {
  for (int& block : block_of_node) block = new_number[static_cast<size_t>(block)];
}

/// Numbers the blocks that are left 0, 1, ... in the order in which nodes meet them. @return how many there are.
int close_gaps(std::vector<int>& block_of_node, int blocks) {
  std::vector<int> number(static_cast<size_t>(blocks), -1);
  int next = 0;
  for (int& block : block_of_node) {
    int& mine = number[static_cast<size_t>(block)];
    if (mine < 0) mine = next++;
    block = mine;
  }
  return next;
}

/// Joins blocks that take no time to their only neighbour, again and again.
class LeafFolder {
 public:
  LeafFolder(const CostGraph& graph, std::vector<int>& block_of_node, int blocks)
      : graph_(graph), block_of_node_(block_of_node), blocks_(blocks) {}

  void run() {
    mark_weightless();
    find_neighbours();
    std::vector<int> ready;
    for (int block = 0; block < blocks_; ++block) ready.push_back(block);
    std::vector<int> into(static_cast<size_t>(blocks_));
    std::iota(into.begin(), into.end(), 0);
    const auto root = [&](int block) {
      while (into[static_cast<size_t>(block)] != block) block = into[static_cast<size_t>(block)];
      return block;
    };
    while (!ready.empty()) {
      const int block = ready.back();
      ready.pop_back();
      if (into[static_cast<size_t>(block)] != block || weightless_[static_cast<size_t>(block)] == 0) continue;
      const int other = only_neighbour(block, root);
      if (other < 0) continue;
      into[static_cast<size_t>(block)] = other;
      ready.push_back(other);  // it may have become a leaf itself
    }
    for (int& block : block_of_node_) block = root(block);
  }

 private:
  void mark_weightless() {
    double memory = 0;
    for (const CostNode& node : graph_.nodes) memory += node.memory_bytes;
    // When one GPU holds everything, no block is ever moved for its bytes.
    const bool memory_binds = memory > graph_.gpu_memory_bytes;
    weightless_.assign(static_cast<size_t>(blocks_), 1);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const CostNode& node = graph_.nodes[i];
      const bool may_run_anywhere = node.gpu_ok && (graph_.cpus == 0 || (node.cpu_ok && node.cpu_time == 0));
      if (node.gpu_time > 0 || !may_run_anywhere || (memory_binds && node.memory_bytes > 0)) {
        weightless_[static_cast<size_t>(block_of_node_[i])] = 0;
      }
    }
  }

  void find_neighbours() {
    std::vector<Pair> pairs;
    for (const CostEdge& edge : graph_.edges) {
      const int from = block_of_node_[static_cast<size_t>(edge.from)];
      const int to = block_of_node_[static_cast<size_t>(edge.to)];
      if (from == to) continue;
      pairs.emplace_back(from, to);
      pairs.emplace_back(to, from);
    }
    neighbours_ = unique_rows(std::move(pairs), blocks_);
  }

  /// The one block beside this one that its neighbours belong to, or -1.
  template <class Root>
  int only_neighbour(int block, const Root& root) const {
    int only = -1;
    for (const int neighbour : neighbours_[block]) {
      const int other = root(neighbour);
      if (other == block || other == only) continue;
      if (only >= 0) return -1;
      only = other;
    }
    return only;
  }

  const CostGraph& graph_;
  std::vector<int>& block_of_node_;
  int blocks_;
  std::vector<char> weightless_;
  Rows neighbours_;
};

class InstanceMaker {
 public:
  InstanceMaker(const CostGraph& graph, const std::vector<int>& block_of_node, int blocks)
      : graph_(graph), block_of_node_(block_of_node), blocks_(blocks) {}

  Instance run() {
    instance_.blocks = blocks_;
    add_kinds();
    add_tensors();
    return std::move(instance_);
  }

 private:
  void add_kinds() {
    DeviceKind gpu;
    gpu.time.assign(static_cast<size_t>(blocks_), 0);
    gpu.memory = graph_.gpu_memory_bytes;
    gpu.count = graph_.gpus;
    DeviceKind cpu;
    cpu.time.assign(static_cast<size_t>(blocks_), 0);
    cpu.pays_transfers = false;  // the tensors are in host memory already
    cpu.count = graph_.cpus;
    instance_.memory.assign(static_cast<size_t>(blocks_), 0);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const CostNode& node = graph_.nodes[i];
      const size_t block = static_cast<size_t>(block_of_node_[i]);
      gpu.time[block] += node.gpu_ok ? node.gpu_time : kForbidden;
      cpu.time[block] += node.cpu_ok ? node.cpu_time : kForbidden;
      instance_.memory[block] += node.memory_bytes;
    }
    instance_.kinds.push_back(std::move(gpu));
    if (graph_.cpus > 0) instance_.kinds.push_back(std::move(cpu));
  }

  struct NewTensor {
    int producer;
    double cost;
    std::vector<int> consumers;
  };

  void add_tensors() {
    std::vector<NewTensor> tensors;
    for (size_t e = 0; e < graph_.edges.size();) {  // edges are sorted by their producer
      const int from = graph_.edges[e].from;
      NewTensor tensor{
          block_of_node_[static_cast<size_t>(from)], graph_.nodes[static_cast<size_t>(from)].tensor_cost, {}};
      for (; e < graph_.edges.size() && graph_.edges[e].from == from; ++e) {
        const int to = block_of_node_[static_cast<size_t>(graph_.edges[e].to)];
        if (to != tensor.producer) tensor.consumers.push_back(to);
      }
      std::sort(tensor.consumers.begin(), tensor.consumers.end());
      tensor.consumers.erase(std::unique(tensor.consumers.begin(), tensor.consumers.end()), tensor.consumers.end());
      if (!tensor.consumers.empty() && tensor.cost > 0) tensors.push_back(std::move(tensor));
    }
    std::stable_sort(tensors.begin(), tensors.end(), [](const NewTensor& a, const NewTensor& b) {
      return a.producer != b.producer ? a.producer < b.producer : a.consumers < b.consumers;
    });
    std::vector<Pair> consumed;
    const NewTensor* last = nullptr;
    for (const NewTensor& tensor : tensors) {
      if (last != nullptr && last->producer == tensor.producer && last->consumers == tensor.consumers) {
        instance_.cost.back() += tensor.cost;  // they always travel together
        continue;
      }
      last = &tensor;
      for (const int block : tensor.consumers) consumed.emplace_back(block, instance_.tensors());
      instance_.producer.push_back(tensor.producer);
      instance_.cost.push_back(tensor.cost);
      instance_.consumers.items.insert(instance_.consumers.items.end(), tensor.consumers.begin(),
                                       tensor.consumers.end());
      instance_.consumers.end_row();
    }
    instance_.consumed = unique_rows(std::move(consumed), blocks_);
    std::vector<Pair> produced;
    for (int t = 0; t < instance_.tensors(); ++t) produced.emplace_back(instance_.producer[static_cast<size_t>(t)], t);
    instance_.produced = unique_rows(std::move(produced), blocks_);
  }

  const CostGraph& graph_;
  const std::vector<int>& block_of_node_;
  int blocks_;
  Instance instance_;
};

/// Vertices whose component has another vertex.
int cyclic(const std::vector<int>& component, int components) {
  std::vector<int> size(static_cast<size_t>(components), 0);
  for (const int c : component) ++size[static_cast<size_t>(c)];
  int count = 0;
  for (const int s : size) count += s > 1 ? s : 0;
  return count;
}

}  // namespace

std::vector<int> strong_components(const Rows& after, int* count) {
  const size_t vertices = static_cast<size_t>(after.size());
  std::vector<int> component(vertices, -1), low(vertices, 0), entered(vertices, -1), stack, path;
  std::vector<int> next(after.first.begin(), after.first.end() - 1);
  int time = 0, components = 0;
  for (size_t start = 0; start < vertices; ++start) {
    if (entered[start] >= 0) continue;
    path.push_back(static_cast<int>(start));
    while (!path.empty()) {
      const size_t v = static_cast<size_t>(path.back());
      if (entered[v] < 0) {
        entered[v] = low[v] = time++;
        stack.push_back(static_cast<int>(v));
      }
      if (next[v] < after.first[v + 1]) {
        const size_t w = static_cast<size_t>(after.items[static_cast<size_t>(next[v]++)]);
        if (entered[w] < 0)
          path.push_back(static_cast<int>(w));
        else if (component[w] < 0)
          low[v] = std::min(low[v], entered[w]);
        continue;
      }
      if (low[v] == entered[v]) {
        int w;
        do {
          w = stack.back();
          stack.pop_back();
          component[static_cast<size_t>(w)] = components;
        } while (w != static_cast<int>(v));
        ++components;
      }
      path.pop_back();
      if (!path.empty())
        low[static_cast<size_t>(path.back())] = std::min(low[static_cast<size_t>(path.back())], low[v]);
    }
  }
  if (count != nullptr) *count = components;
  return component;
}

Contraction contract(const CostGraph& graph, SplitKind kind) {
  Contraction result;
  std::vector<int>& block_of_node = result.block_of_node;
  for (const CostNode& node : graph.nodes) block_of_node.push_back(node.color);
  int blocks = graph.colors;
  std::vector<Pair> order;
  if (kind == SplitKind::contiguous) {
    order = stage_order(graph);
    const std::vector<int> component = strong_components(unique_rows(order, blocks), &blocks);
    result.cyclic_blocks = cyclic(component, blocks);
    renumber(block_of_node, component);
  }
  LeafFolder(graph, block_of_node, blocks).run();
  blocks = close_gaps(block_of_node, blocks);
  result.instance = InstanceMaker(graph, block_of_node, blocks).run();
  if (kind == SplitKind::contiguous) {
    std::vector<int> block_of_color(static_cast<size_t>(graph.colors), 0);
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      block_of_color[static_cast<size_t>(graph.nodes[i].color)] = block_of_node[i];
    }
    order = between_blocks(order, block_of_color);
    result.instance.before = unique_rows(reversed(order), blocks);
    result.instance.after = unique_rows(std::move(order), blocks);
  }
  return result;
}

}  // namespace mpc::place
