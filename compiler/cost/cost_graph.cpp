#include "compiler/cost/cost_graph.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"
#include "compiler/base/json.h"
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

/// Reads members of one row. A view is made only to say what is wrong: making one builds the path as text, which a
/// million rows would feel.
class Row {
 public:
  Row(const JsonView& rows, int64_t index) : rows_(rows), index_(index) {}

  const Json* find(const char* key) const {
    const Json& row = rows_.json()[static_cast<size_t>(index_)];
    if (!row.is_object()) fail("is not an object");
    const auto it = row.find(key);
    return it == row.end() ? nullptr : &*it;
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
    throw Error(ErrorId::M066, fmt::format("{}[{}]", rows_.place(), index_),
                subject_.empty() ? message : fmt::format("{} {}", subject_, message));
  }
  void name(std::string subject) { subject_ = std::move(subject); }

 private:
  [[noreturn]] void fail_type(const Json& value, const char* key, const std::string& expected) const {
    const std::string found =
        value.is_primitive() ? escaped(json_text(value), 80) : std::string("an ") + value.type_name();
    fail(fmt::format("\"{}\" is {}, must be {}", key, found, expected));
  }

  const JsonView& rows_;
  int64_t index_;
  std::string subject_;
};

class CostGraphReader {
 public:
  explicit CostGraphReader(const JsonView& root) : root_(root) {}

  CostGraph run() {
    read_head();
    read_devices(root_.at("devices"));
    read_nodes(root_.at("nodes"));
    read_edges(root_.at("edges"));
    return std::move(graph_);
  }

 private:
  void read_head() {
    if (const auto kind = root_.find("kind"); kind && kind->text() != "placement") {
      throw Error(ErrorId::M046, kind->place(),
                  fmt::format("is \"{}\"; this version of mpc plans cost graphs of kind \"placement\"",
                              escaped(kind->text(), 80)));
    }
    if (const auto name = root_.find("name")) graph_.name = name->text();
    if (const auto unit = root_.find("time_unit")) graph_.time_unit = unit->text();
  }

  void read_devices(const JsonView& row) {
    graph_.gpus = static_cast<int>(row.at("count").integer(1, kMostDevices));
    if (const auto cpus = row.find("cpus"); cpus && !cpus->is_null()) {
      graph_.cpus = static_cast<int>(cpus->integer(0, kMostDevices));
    }
    graph_.gpu_memory_bytes = row.at("memory_bytes").number(0, kMostBytes);
  }

  void read_nodes(const JsonView& rows) {
    const int64_t count = rows.count();
    if (count < 1) rows.fail("is empty: there is nothing to place");
    if (count > kMostNodes) {
      throw Error(ErrorId::M051, rows.place(), fmt::format("has {} nodes, the limit is {}", count, kMostNodes));
    }
    graph_.nodes.reserve(static_cast<size_t>(count));
    index_.reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      Row row(rows, i);
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
    row.name(fmt::format("node {}", node.id));
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

  int node_of(const Row& row, const char* key) const {
    const int64_t id = row.integer(key);
    const auto found = index_.find(id);
    if (found == index_.end()) row.fail(fmt::format("\"{}\": there is no node {}", key, id));
    return found->second;
  }

  void read_edges(const JsonView& rows) {
    const int64_t count = rows.count();
    if (count > kMostEdges) {
      throw Error(ErrorId::M051, rows.place(), fmt::format("has {} edges, the limit is {}", count, kMostEdges));
    }
    graph_.edges.reserve(static_cast<size_t>(count));
    std::vector<char> has_cost(graph_.nodes.size(), 0);
    for (int64_t i = 0; i < count; ++i) {
      const Row row(rows, i);
      const CostEdge edge{node_of(row, "from"), node_of(row, "to")};
      const double cost = row.number("cost", kMostCost);
      CostNode& from = graph_.nodes[static_cast<size_t>(edge.from)];
      if (has_cost[static_cast<size_t>(edge.from)] == 0) from.tensor_cost = cost;
      has_cost[static_cast<size_t>(edge.from)] = 1;
      if (std::abs(cost - from.tensor_cost) > kSameCost * std::max(1.0, from.tensor_cost)) {
        row.fail(fmt::format("the edge from node {} to node {} costs {}, another edge of node {} costs {}", from.id,
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

  JsonView root_;
  CostGraph graph_;
  std::unordered_map<int64_t, int> index_;
  std::unordered_map<int64_t, int> color_;
};

}  // namespace

CostGraph parse_cost_graph(std::string_view json, const std::string& where) {
  const Json parsed = parse_json(json, ErrorId::M066, where);
  return CostGraphReader(JsonView(parsed, ErrorId::M066, where)).run();
}

}  // namespace mpc
