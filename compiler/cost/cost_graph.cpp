#include "compiler/cost/cost_graph.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"
#include "compiler/base/json_rows.h"
#include "compiler/base/text.h"

namespace mpc {
namespace {

constexpr int64_t kMostNodes = 1'000'000;
constexpr int64_t kMostEdges = 8'000'000;
constexpr int64_t kMostDevices = 4096;
// Sums over the largest graph stay finite and far from the ends of a double.
constexpr double kMostCost = 1e15;
constexpr double kMostBytes = 1e18;
// Two edges of one node carry the same tensor: a difference within the rounding of a printed number is none.
constexpr double kSameCost = 1e-6;

/// Reads members of one row.
class Row {
 public:
  /// @pre `row` and `place`, the place of the rows in messages, outlive this.
  Row(const Json& row, const std::string& place, int64_t index) : row_(row), place_(place), index_(index) {
    if (!row.is_object()) fail("is not an object");
  }

  const Json* find(const char* key) const {
    const auto it = row_.find(key);
    return it == row_.end() ? nullptr : &*it;
  }
  const Json& at(const char* key) const {
    const Json* found = find(key);
    if (found == nullptr) fail(fmt::format("has no \"{}\"", key));
    return *found;
  }
  double number(const char* key, double most) const { return number(at(key), key, most); }
  double number(const Json& value, const char* key, double most) const {
    if (!value.is_number()) fail_type(value, key, "a number");
    const double number = value.get<double>();
    if (!(number >= 0 && number <= most)) fail_type(value, key, fmt::format("in [0, {}]", most));
    return number;
  }
  int64_t integer(const char* key) const {
    const Json& value = at(key);
    const bool is_too_large = value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX};
    if (!value.is_number_integer() || is_too_large) fail_type(value, key, "a 64-bit integer");
    return value.get<int64_t>();
  }
  bool flag(const Json& value, const char* key) const {
    if (!value.is_boolean()) fail_type(value, key, "true or false");
    return value.get<bool>();
  }
  [[noreturn]] void fail(const std::string& message) const {
    throw Error(ErrorId::M066, fmt::format("{}[{}]", place_, index_),
                node_ ? fmt::format("node {} {}", *node_, message) : message);
  }
  /// Names the node that the row is of, for messages.
  void name(int64_t node) { node_ = node; }

 private:
  [[noreturn]] void fail_type(const Json& value, const char* key, const std::string& expected) const {
    const std::string found =
        value.is_primitive() ? escaped(json_text(value), 80) : std::string("an ") + value.type_name();
    fail(fmt::format("\"{}\" is {}, must be {}", key, found, expected));
  }

  const Json& row_;
  const std::string& place_;
  int64_t index_;
  std::optional<int64_t> node_;
};

/// Nodes and edges are read row by row while the text is parsed. Either may come first, so edges are resolved at the
/// end.
class CostGraphReader {
 public:
  explicit CostGraphReader(const std::string& where)
      : where_(where), nodes_place_(where + ": nodes"), edges_place_(where + ": edges") {}

  CostGraph run(std::string_view text) {
    const Json json = parse_json_rows(text, ErrorId::M066, where_, {kNodes, kEdges},
                                      [this](std::string_view key, int64_t index, const Json& row) {
                                        if (key == kNodes)
                                          take_node(row, index);
                                        else
                                          take_edge(row, index);
                                      });
    const JsonView root(json, ErrorId::M066, where_);
    read_head(root);
    read_devices(root.at("devices"));
    const JsonView nodes = root.at(kNodes), edges = root.at(kEdges);
    nodes.count();  // both are arrays, or their rows were not taken
    edges.count();
    if (graph_.nodes.empty()) nodes.fail("is empty: there is nothing to place");
    resolve_edges();
    return std::move(graph_);
  }

 private:
  static constexpr std::string_view kNodes = "nodes";
  static constexpr std::string_view kEdges = "edges";
  /// An edge as the file has it.
  struct NamedEdge {
    int64_t from = 0;
    int64_t to = 0;
    double cost = 0;
  };

  static void limit(const std::string& place, const char* what, int64_t index, int64_t most) {
    if (index < most) return;
    throw Error(ErrorId::M051, place, fmt::format("has more than {} {}, the limit", most, what));
  }

  void read_head(const JsonView& root) {
    if (const auto kind = root.find("kind"); kind && kind->text() != "placement") {
      throw Error(ErrorId::M046, kind->place(),
                  fmt::format("is \"{}\"; this version of mpc plans cost graphs of kind \"placement\"",
                              escaped(kind->text(), 80)));
    }
    if (const auto name = root.find("name")) graph_.name = name->text();
    if (const auto unit = root.find("time_unit")) graph_.time_unit = unit->text();
  }

  void read_devices(const JsonView& row) {
    graph_.gpus = static_cast<int>(row.at("count").integer(1, kMostDevices));
    if (const auto cpus = row.find("cpus"); cpus && !cpus->is_null()) {
      graph_.cpus = static_cast<int>(cpus->integer(0, kMostDevices));
    }
    graph_.gpu_memory_bytes = row.at("memory_bytes").number(0, kMostBytes);
  }

  void take_node(const Json& json, int64_t index) {
    limit(nodes_place_, "nodes", index, kMostNodes);
    Row row(json, nodes_place_, index);
    const CostNode node = read_node(row);
    const auto [it, is_first] = index_.emplace(node.id, static_cast<int>(graph_.nodes.size()));
    if (is_first) {
      graph_.nodes.push_back(node);
    } else if (!is_repetition(node, graph_.nodes[static_cast<size_t>(it->second)])) {
      row.fail("stands twice");
    } else {
      ++graph_.repeated_nodes;
    }
  }

  /// Published profiles repeat nodes that cost nothing: the same node once more, on the device it is on already.
  static bool is_repetition(const CostNode& a, const CostNode& b) {
    const auto costs = [](const CostNode& node) { return node.gpu_time + node.cpu_time + node.memory_bytes; };
    return costs(a) == 0 && costs(b) == 0 && a.color == b.color && a.is_backward == b.is_backward &&
           a.gpu_ok == b.gpu_ok && a.cpu_ok == b.cpu_ok;
  }

  CostNode read_node(Row& row) {
    CostNode node;
    node.id = row.integer("id");
    row.name(node.id);
    node.gpu_time = row.number("time_gpu", kMostCost);
    node.memory_bytes = row.number("memory_bytes", kMostBytes);
    node.is_backward = row.flag(row.at("backward"), "backward");
    if (const Json* ok = row.find("gpu_ok")) node.gpu_ok = row.flag(*ok, "gpu_ok");
    const Json* cpu = row.find("time_cpu");
    node.cpu_ok = cpu != nullptr && !cpu->is_null();
    if (node.cpu_ok) node.cpu_time = row.number(*cpu, "time_cpu", kMostCost);
    const Json* color = row.find("color_class");
    node.color = color == nullptr || color->is_null() ? graph_.colors++ : color_of(row.integer("color_class"));
    return node;
  }

  int color_of(int64_t name) {
    const auto [it, is_first] = color_.emplace(name, graph_.colors);
    if (is_first) ++graph_.colors;
    return it->second;
  }

  void take_edge(const Json& json, int64_t index) {
    limit(edges_place_, "edges", index, kMostEdges);
    const Row row(json, edges_place_, index);
    edges_.push_back({row.integer("from"), row.integer("to"), row.number("cost", kMostCost)});
  }

  [[noreturn]] void fail_edge(size_t index, const std::string& message) const {
    throw Error(ErrorId::M066, fmt::format("{}[{}]", edges_place_, index), message);
  }
  int node_of(size_t edge, const char* key, int64_t id) const {
    const auto found = index_.find(id);
    if (found == index_.end()) fail_edge(edge, fmt::format("\"{}\": there is no node {}", key, id));
    return found->second;
  }

  void resolve_edges() {
    graph_.edges.reserve(edges_.size());
    std::vector<char> has_cost(graph_.nodes.size(), 0);
    for (size_t i = 0; i < edges_.size(); ++i) {
      const CostEdge edge{node_of(i, "from", edges_[i].from), node_of(i, "to", edges_[i].to)};
      const double cost = edges_[i].cost;
      CostNode& from = graph_.nodes[static_cast<size_t>(edge.from)];
      if (has_cost[static_cast<size_t>(edge.from)] == 0) from.tensor_cost = cost;
      has_cost[static_cast<size_t>(edge.from)] = 1;
      if (std::abs(cost - from.tensor_cost) > kSameCost * std::max(1.0, from.tensor_cost)) {
        fail_edge(i, fmt::format("the edge from node {} to node {} costs {}, another edge of node {} costs {}", from.id,
                                 graph_.nodes[static_cast<size_t>(edge.to)].id, cost, from.id, from.tensor_cost));
      }
      if (edge.from == edge.to)
        ++graph_.self_loops;  // on one device whatever the split
      else
        graph_.edges.push_back(edge);
    }
    std::sort(graph_.edges.begin(), graph_.edges.end(),
              [](const CostEdge& a, const CostEdge& b) { return a.from != b.from ? a.from < b.from : a.to < b.to; });
    const auto same = [](const CostEdge& a, const CostEdge& b) { return a.from == b.from && a.to == b.to; };
    graph_.edges.erase(std::unique(graph_.edges.begin(), graph_.edges.end(), same), graph_.edges.end());
  }

  const std::string& where_;
  std::string nodes_place_, edges_place_;
  CostGraph graph_;
  std::vector<NamedEdge> edges_;
  std::unordered_map<int64_t, int> index_;
  std::unordered_map<int64_t, int> color_;
};

}  // namespace

CostGraph parse_cost_graph(std::string_view json, const std::string& where) {
  return CostGraphReader(where).run(json);
}

}  // namespace mpc
