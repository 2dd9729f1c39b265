#include "passes/place/search/canonical.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

#include "compiler/base/random.h"
#include "passes/place/search/contract.h"

namespace mpc::place {
namespace {

constexpr int kRounds = 2;  // the second one carries what colours join

class StructuralOrder {
 public:
  explicit StructuralOrder(const CostGraph& graph) : graph_(graph), nodes_(static_cast<int>(graph.nodes.size())) {
    std::vector<std::pair<int, int>> forth, back;
    for (const CostEdge& edge : graph.edges) {
      forth.emplace_back(edge.from, edge.to);
      back.emplace_back(edge.to, edge.from);
    }
    after_ = unique_rows(std::move(forth), nodes_);
    before_ = unique_rows(std::move(back), nodes_);
    component_ = strong_components(after_, &components_);
    members_ = rows_of(component_, components_);
    colors_ = colors_of(graph);
  }

  std::vector<int> run() {
    label_nodes();
    for (int round = 0; round < kRounds; ++round) {
      const std::vector<uint64_t> up = swept(before_, components_ - 1, -1), down = swept(after_, 0, 1);
      for (size_t i = 0; i < label_.size(); ++i) label_[i] = mix_bits(up[i] + mix_bits(down[i]));
      share(colors_);
    }
    return sorted();
  }

 private:
  static Rows rows_of(const std::vector<int>& row_of_item, int rows) {
    std::vector<std::pair<int, int>> pairs;
    for (size_t i = 0; i < row_of_item.size(); ++i) pairs.emplace_back(row_of_item[i], static_cast<int>(i));
    return unique_rows(std::move(pairs), rows);
  }
  static Rows colors_of(const CostGraph& graph) {
    std::vector<int> color;
    for (const CostNode& node : graph.nodes) color.push_back(node.color);
    return rows_of(color, graph.colors);
  }

  /// What a node is by itself. Numbers relative to the largest one, as float: the unit's rounding is not in them.
  void label_nodes() {
    double most_time = 0, most_bytes = 0;
    for (const CostNode& node : graph_.nodes) {
      most_time = std::max({most_time, node.gpu_time, node.tensor_cost});
      most_bytes = std::max(most_bytes, node.memory_bytes);
    }
    const auto bits = [](double value, double most) {
      return uint64_t{std::bit_cast<uint32_t>(static_cast<float>(most > 0 ? value / most : 0))};
    };
    for (const CostNode& node : graph_.nodes) {
      uint64_t label = (node.is_backward ? 1u : 0u) + (node.gpu_ok ? 2u : 0u) + (node.cpu_ok ? 4u : 0u);
      label = mix_bits(label + (bits(node.gpu_time, most_time) << 3));
      label = mix_bits(label ^ bits(node.tensor_cost, most_time));
      label = mix_bits(label ^ bits(node.memory_bytes, most_bytes));
      if (node.cpu_ok) label = mix_bits(label ^ bits(node.cpu_time, most_time));
      label_.push_back(label);
    }
  }

  /// Every row's items add what they all are to what each is.
  void share(const Rows& rows) {
    for (int row = 0; row < rows.size(); ++row) {
      if (rows[row].size() < 2) continue;
      uint64_t sum = 0;
      for (const int item : rows[row]) sum += mix_bits(label_[static_cast<size_t>(item)]);
      for (const int item : rows[row])
        label_[static_cast<size_t>(item)] = mix_bits(label_[static_cast<size_t>(item)] ^ mix_bits(sum));
    }
  }

  /// Of every node what it is and what leads to it. @pre from `first` on by `step` a component comes after those in
  /// `near` of its nodes.
  std::vector<uint64_t> swept(const Rows& near, int first, int step) const {
    std::vector<uint64_t> result(label_.size());
    for (int c = first; 0 <= c && c < components_; c += step) {
      uint64_t all = 0;
      for (const int node : members_[c]) {
        uint64_t sum = 0;
        for (const int other : near[node]) {
          if (component_[static_cast<size_t>(other)] != c) sum += mix_bits(result[static_cast<size_t>(other)]);
        }
        result[static_cast<size_t>(node)] = mix_bits(label_[static_cast<size_t>(node)] + 3 * sum);
        all += mix_bits(result[static_cast<size_t>(node)]);
      }
      if (members_[c].size() < 2) continue;
      for (const int node : members_[c])
        result[static_cast<size_t>(node)] = mix_bits(result[static_cast<size_t>(node)] ^ all);
    }
    return result;
  }

  std::vector<int> sorted() const {
    std::vector<int> depth(static_cast<size_t>(components_), 0), order(label_.size());
    for (int c = components_; c-- > 0;) {
      for (const int node : members_[c]) {
        for (const int next : after_[node]) {
          const size_t to = static_cast<size_t>(component_[static_cast<size_t>(next)]);
          if (static_cast<int>(to) != c) depth[to] = std::max(depth[to], depth[static_cast<size_t>(c)] + 1);
        }
      }
    }
    std::iota(order.begin(), order.end(), 0);
    const auto key = [&](int node) {
      const size_t i = static_cast<size_t>(node);
      return std::pair(depth[static_cast<size_t>(component_[i])], label_[i]);
    };
    std::sort(order.begin(), order.end(), [&](int a, int b) {
      const auto x = key(a), y = key(b);
      return x != y ? x < y : a < b;
    });
    break_ties(order, key);
    return order;
  }

  /// Those that are alike: by the places of what leads to them.
  template <class Key>
  void break_ties(std::vector<int>& order, const Key& key) const {
    std::vector<int> place(order.size(), 0);
    for (size_t first = 0, last = 0; first < order.size(); first = last) {
      while (last < order.size() && key(order[last]) == key(order[first])) ++last;
      if (last - first > 1) {
        std::vector<std::pair<std::vector<int>, int>> alike;
        for (size_t i = first; i < last; ++i) {
          std::vector<int> places;
          for (const int other : before_[order[i]]) {
            if (component_[static_cast<size_t>(other)] != component_[static_cast<size_t>(order[i])])
              places.push_back(place[static_cast<size_t>(other)]);
          }
          std::sort(places.begin(), places.end());
          alike.emplace_back(std::move(places), order[i]);
        }
        std::sort(alike.begin(), alike.end());
        for (size_t i = first; i < last; ++i) order[i] = alike[i - first].second;
      }
      for (size_t i = first; i < last; ++i) place[static_cast<size_t>(order[i])] = static_cast<int>(i);
    }
  }

  const CostGraph& graph_;
  int nodes_;
  Rows before_, after_;
  std::vector<int> component_;  // [node]; an edge leads to a lower number, or the same
  int components_ = 0;
  Rows members_;                 // [component]
  Rows colors_;                  // [color]
  std::vector<uint64_t> label_;  // [node]
};

}  // namespace

std::vector<int> structural_order(const CostGraph& graph) {
  return StructuralOrder(graph).run();
}

CostGraph reordered(const CostGraph& graph, const std::vector<int>& order) {
  CostGraph result = graph;
  std::vector<int> place(order.size()), color(static_cast<size_t>(graph.colors), -1);
  int colors = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    place[static_cast<size_t>(order[i])] = static_cast<int>(i);
    CostNode& node = result.nodes[i] = graph.nodes[static_cast<size_t>(order[i])];
    int& mine = color[static_cast<size_t>(node.color)];
    if (mine < 0) mine = colors++;
    node.color = mine;
  }
  for (CostEdge& edge : result.edges)
    edge = {place[static_cast<size_t>(edge.from)], place[static_cast<size_t>(edge.to)]};
  std::sort(result.edges.begin(), result.edges.end(),
            [](const CostEdge& a, const CostEdge& b) { return std::pair(a.from, a.to) < std::pair(b.from, b.to); });
  return result;
}

}  // namespace mpc::place
