#include "compiler/cost/parallel_graph.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"
#include "compiler/base/json.h"
#include "compiler/base/text.h"

namespace mpc {
namespace {

constexpr int64_t kMostNodes = 20'000;
constexpr int64_t kMostEdges = 200'000;
constexpr int64_t kMostDevices = 1 << 20;
constexpr int64_t kMostDegree = 4096;
constexpr int64_t kMostMicrobatches = 1 << 24;
constexpr int64_t kMostChoices = 64;  // of a node and degree
// Sums over the largest graph stay finite and far from the ends of a double.
constexpr double kMostTime = 1e15;
constexpr double kMostBytes = 1e18;
constexpr double kLeastBandwidth = 1e-6;

/// A key that is a number: "8".
std::optional<int64_t> number_of(const std::string& key) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), number);
  if (error != std::errc() || end != key.data() + key.size()) return std::nullopt;
  return number;
}

class Reader {
 public:
  explicit Reader(const JsonView& root) : root_(root) {}

  ParallelGraph run() {
    if (const auto name = root_.find("name")) graph_.name = name->text();
    if (const auto unit = root_.find("time_unit")) graph_.time_unit = unit->text();
    read_devices(root_.at("devices"));
    const JsonView nodes = root_.at("nodes");
    const JsonView edges = root_.at("edges");
    const int64_t count = nodes.count();
    if (count < 1) nodes.fail("is empty: there is nothing to place");
    limit(nodes, count, kMostNodes, "nodes");
    limit(edges, edges.count(), kMostEdges, "edges");
    for (int64_t i = 0; i < count; ++i) read_id(nodes.element(i));
    for (int64_t i = 0; i < edges.count(); ++i) read_edge(edges.element(i));
    for (int64_t i = 0; i < count; ++i) read_degrees(nodes.element(i));
    for (int64_t i = 0; i < count; ++i) read_choices(nodes.element(i), graph_.nodes[static_cast<size_t>(i)]);
    check_acyclic(edges);
    return std::move(graph_);
  }

 private:
  static void limit(const JsonView& rows, int64_t count, int64_t most, const char* what) {
    if (count > most) {
      throw Error(ErrorId::M051, rows.place(), fmt::format("has {} {}, the limit is {}", count, what, most));
    }
  }

  void read_devices(const JsonView& row) {
    graph_.devices = row.at("count").integer(1, kMostDevices);
    graph_.memory_bytes = row.at("memory_bytes").number(0, kMostBytes);
    graph_.bytes_per_time = row.at("bandwidth_bytes_per_time").number(kLeastBandwidth, kMostBytes);
    graph_.microbatches = row.at("microbatches").integer(1, kMostMicrobatches);
  }

  void read_id(const JsonView& row) {
    ParallelNode node;
    node.id = row.at("id").integer();
    if (!index_.emplace(node.id, static_cast<int>(graph_.nodes.size())).second) {
      row.fail(fmt::format("node {} stands twice", node.id));
    }
    graph_.nodes.push_back(std::move(node));
  }

  int node_of(const JsonView& value) const {
    const int64_t id = value.integer();
    const auto found = index_.find(id);
    if (found == index_.end()) value.fail(fmt::format("there is no node {}", id));
    return found->second;
  }

  void read_edge(const JsonView& row) {
    const ParallelEdge edge{node_of(row.at("from")), node_of(row.at("to")), row.at("bytes").number(0, kMostBytes)};
    if (edge.from == edge.to) row.fail(fmt::format("leads from node {} to itself", id_of(edge.from)));
    if (!pairs_.emplace(edge.from, edge.to).second) {
      row.fail(fmt::format("the edge from node {} to node {} stands twice", id_of(edge.from), id_of(edge.to)));
    }
    const int index = static_cast<int>(graph_.edges.size());
    graph_.nodes[static_cast<size_t>(edge.from)].out.push_back(index);
    graph_.nodes[static_cast<size_t>(edge.to)].in.push_back(index);
    graph_.edges.push_back(edge);
  }

  int64_t id_of(int node) const { return graph_.nodes[static_cast<size_t>(node)].id; }

  void read_degrees(const JsonView& row) {
    row.at("variants").for_each_member([&](const std::string& key, const JsonView& view) {
      const std::optional<int64_t> degree = number_of(key);
      if (!degree || *degree < 1 || *degree > kMostDegree) {
        view.fail(fmt::format("is no number of devices in [1, {}]", kMostDegree));
      }
      const auto at = std::lower_bound(graph_.degrees.begin(), graph_.degrees.end(), static_cast<int>(*degree));
      if (at == graph_.degrees.end() || *at != *degree) graph_.degrees.insert(at, static_cast<int>(*degree));
    });
  }

  void read_choices(const JsonView& row, ParallelNode& node) {
    node.choices.resize(graph_.degrees.size());
    row.at("variants").for_each_member([&](const std::string& key, const JsonView& list) {
      const auto at = std::lower_bound(graph_.degrees.begin(), graph_.degrees.end(), static_cast<int>(*number_of(key)));
      auto& choices = node.choices[static_cast<size_t>(at - graph_.degrees.begin())];
      if (list.count() > kMostChoices) {
        throw Error(ErrorId::M051, list.place(),
                    fmt::format("has {} choices, the limit is {}", list.count(), kMostChoices));
      }
      for (int64_t i = 0; i < list.count(); ++i) choices.push_back(read_choice(list.element(i), node));
    });
  }

  ParallelChoice read_choice(const JsonView& row, const ParallelNode& node) const {
    ParallelChoice choice;
    choice.name = row.at("id").text();
    choice.time = row.at("timePerSample").number(0, kMostTime);
    choice.parameter_bytes = row.at("parameterSize").number(0, kMostBytes);
    choice.bytes_per_microbatch = row.at("memoryUsageA").number(0, kMostBytes);
    choice.fixed_bytes = row.at("memoryUsageB").number(0, kMostBytes);
    const JsonView in = row.at("syncTimeFw");
    const JsonView out = row.at("syncTimeBw");
    for (const int e : node.in) choice.sync_in.push_back(bytes_of(in, graph_.edges[static_cast<size_t>(e)].from));
    for (const int e : node.out) choice.sync_out.push_back(bytes_of(out, graph_.edges[static_cast<size_t>(e)].to));
    return choice;
  }

  double bytes_of(const JsonView& map, int neighbour) const {
    return map.at(std::to_string(id_of(neighbour))).number(0, kMostBytes);
  }

  void check_acyclic(const JsonView& edges) const {
    std::vector<size_t> waits_for;
    std::vector<size_t> ready;
    for (const ParallelNode& node : graph_.nodes) {
      if (node.in.empty()) ready.push_back(waits_for.size());
      waits_for.push_back(node.in.size());
    }
    for (size_t i = 0; i < ready.size(); ++i) {
      for (const int e : graph_.nodes[ready[i]].out) {
        const auto to = static_cast<size_t>(graph_.edges[static_cast<size_t>(e)].to);
        if (--waits_for[to] == 0) ready.push_back(to);
      }
    }
    if (ready.size() == graph_.nodes.size()) return;
    const auto on_cycle = std::find_if(waits_for.begin(), waits_for.end(), [](size_t n) { return n > 0; });
    edges.fail(fmt::format("has a cycle: node {} is on it or behind it",
                           graph_.nodes[static_cast<size_t>(on_cycle - waits_for.begin())].id),
               "stages need an order; leave backward edges out, times hold forward and backward");
  }

  JsonView root_;
  ParallelGraph graph_;
  std::unordered_map<int64_t, int> index_;
  std::set<std::pair<int, int>> pairs_;
};

}  // namespace

bool is_parallel_graph(const Json& json) {
  if (!json.is_object()) return false;
  const auto kind = json.find("kind");
  return kind != json.end() && *kind == "piper";
}

ParallelGraph parse_parallel_graph(const Json& json, const std::string& where) {
  return Reader(JsonView(json, ErrorId::M066, where)).run();
}

}  // namespace mpc
