#include <array>
#include <cmath>
#include <functional>
#include <string>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"
#include "compiler/cost/cost_graph.h"

// Cost graphs as files: what is read, and how what is wrong with one is named.

namespace mpc {
namespace {

using OrderedJson = nlohmann::json;

/// Nodes 3 -> 5 -> 8 with a backward twin of 3, on two GPUs and a CPU core.
OrderedJson good_graph() {
  return OrderedJson::parse(R"({"name": "g", "kind": "placement", "time_unit": "ms", "seen": [1],
    "devices": {"count": 2, "memory_bytes": 100, "cpus": 1},
    "nodes": [
      {"id": 3, "name": "a", "time_gpu": 1.5, "time_cpu": 15, "memory_bytes": 10, "backward": false, "color_class": 7},
      {"id": 5, "name": "b", "time_gpu": 2, "time_cpu": null, "memory_bytes": 20, "backward": false, "color_class": null},
      {"id": 8, "time_gpu": 3, "memory_bytes": 0.5, "backward": false, "gpu_ok": true, "layer_id": 4},
      {"id": -1, "time_gpu": 4, "memory_bytes": 30, "backward": true, "color_class": 7}],
    "edges": [{"from": 3, "to": 5, "cost": 0.25, "bytes": 7}, {"from": 5, "to": 8, "cost": 0.5},
              {"from": 3, "to": -1, "cost": 0.25}]})");
}

struct Refusal {
  ErrorId id = ErrorId::M700;
  std::string text;
};

/// The error of the graph after a change, as text.
Refusal refusal_of(const std::function<void(OrderedJson&)>& change) {
  OrderedJson json = good_graph();
  change(json);
  try {
    parse_cost_graph(json.dump(), "g.json");
  } catch (const Error& error) {
    return {error.id(), error.what()};
  }
  return {};
}

}  // namespace

TEST_CASE("cost graph: nodes, colours, tensors and devices are read") {
  const CostGraph graph = parse_cost_graph(good_graph().dump(), "g.json");
  CHECK(graph.name == "g");
  CHECK(graph.gpus == 2);
  CHECK(graph.cpus == 1);
  CHECK(graph.gpu_memory_bytes == 100);
  REQUIRE(graph.nodes.size() == 4);
  CHECK(graph.nodes[0].color == graph.nodes[3].color);
  CHECK(graph.colors == 3);
  CHECK(graph.nodes[0].cpu_ok);
  CHECK(graph.nodes[0].cpu_time == 15);
  CHECK(!graph.nodes[1].cpu_ok);
  CHECK(!graph.nodes[2].cpu_ok);
  CHECK(graph.nodes[3].is_backward);
  CHECK(graph.nodes[0].tensor_cost == 0.25);
  CHECK(graph.nodes[2].tensor_cost == 0);
  CHECK(graph.nodes[2].memory_bytes == 0.5);
  CHECK(graph.edges.size() == 3);
}

TEST_CASE("cost graph: edges may stand before the nodes or behind them") {
  const char* rows[] = {R"("nodes": [{"id": 1, "time_gpu": 1, "memory_bytes": 0, "backward": false},
                                     {"id": 2, "time_gpu": 1, "memory_bytes": 0, "backward": false}])",
                        R"("edges": [{"from": 1, "to": 2, "cost": 0.5}])",
                        R"("devices": {"count": 2, "memory_bytes": 1})"};
  for (const auto& [a, b, c] : {std::array{0, 1, 2}, std::array{2, 1, 0}, std::array{1, 2, 0}}) {
    const CostGraph graph = parse_cost_graph(fmt::format("{{{}, {}, {}}}", rows[a], rows[b], rows[c]), "g.json");
    REQUIRE(graph.edges.size() == 1);
    CHECK(graph.edges[0].from == 0);
    CHECK(graph.edges[0].to == 1);
    CHECK(graph.nodes[0].tensor_cost == 0.5);
  }
}

TEST_CASE("cost graph: devices without cpus have none, and edges that repeat count once") {
  OrderedJson json = good_graph();
  json["devices"].erase("cpus");
  json["edges"].push_back(json["edges"][0]);
  const CostGraph graph = parse_cost_graph(json.dump(), "g.json");
  CHECK(graph.cpus == 0);
  CHECK(graph.edges.size() == 3);
}

TEST_CASE("cost graph: what published profiles have and what costs nothing is counted, not refused") {
  OrderedJson json = good_graph();
  json["nodes"].push_back({{"id", 9}, {"time_gpu", 0}, {"memory_bytes", 0}, {"backward", false}, {"color_class", 9}});
  json["nodes"].push_back(json["nodes"].back());
  json["edges"].push_back({{"from", 9}, {"to", 9}, {"cost", 0}});
  const CostGraph graph = parse_cost_graph(json.dump(), "g.json");
  CHECK(graph.nodes.size() == 5);
  CHECK(graph.repeated_nodes == 1);
  CHECK(graph.self_loops == 1);
}

TEST_CASE("cost graph: every malformed one is refused, with the node or edge in the message") {
  struct Row {
    const char* what;
    std::function<void(OrderedJson&)> change;
    const char* text;
  };
  const Row rows[] = {
      {"no nodes", [](auto& g) { g.erase("nodes"); }, "has no \"nodes\""},
      {"no edges", [](auto& g) { g.erase("edges"); }, "has no \"edges\""},
      {"no devices", [](auto& g) { g.erase("devices"); }, "has no \"devices\""},
      {"nodes are an object", [](auto& g) { g["nodes"] = OrderedJson::object(); }, "nodes: is an object"},
      {"empty", [](auto& g) { g["nodes"] = OrderedJson::array(); }, "nodes: is empty"},
      {"a node is a number", [](auto& g) { g["nodes"][1] = 4; }, "nodes[1]: is not an object"},
      {"no id", [](auto& g) { g["nodes"][1].erase("id"); }, "nodes[1]: has no \"id\""},
      {"id is text", [](auto& g) { g["nodes"][1]["id"] = "x"; }, "nodes[1]: \"id\" is \"x\""},
      {"id beyond 64 bits", [](auto& g) { g["nodes"][1]["id"] = 18446744073709551615u; }, "nodes[1]: \"id\""},
      {"id twice", [](auto& g) { g["nodes"][1]["id"] = 3; }, "nodes[1]: node 3 stands twice"},
      {"no time", [](auto& g) { g["nodes"][1].erase("time_gpu"); }, "nodes[1]: node 5 has no \"time_gpu\""},
      {"time is null", [](auto& g) { g["nodes"][1]["time_gpu"] = nullptr; }, "nodes[1]: node 5 \"time_gpu\" is null"},
      {"time is negative", [](auto& g) { g["nodes"][1]["time_gpu"] = -1; }, "nodes[1]: node 5 \"time_gpu\" is -1"},
      {"time is 1e308", [](auto& g) { g["nodes"][1]["time_gpu"] = 1e308; }, "node 5 \"time_gpu\" is 1e+308"},
      {"cpu time is negative", [](auto& g) { g["nodes"][0]["time_cpu"] = -0.5; }, "node 3 \"time_cpu\" is -0.5"},
      {"no memory", [](auto& g) { g["nodes"][1].erase("memory_bytes"); }, "node 5 has no \"memory_bytes\""},
      {"memory is negative", [](auto& g) { g["nodes"][1]["memory_bytes"] = -1; }, "node 5 \"memory_bytes\" is -1"},
      {"memory is 1e308", [](auto& g) { g["nodes"][1]["memory_bytes"] = 1e308; }, "node 5 \"memory_bytes\""},
      {"no backward", [](auto& g) { g["nodes"][1].erase("backward"); }, "node 5 has no \"backward\""},
      {"backward is a number", [](auto& g) { g["nodes"][1]["backward"] = 0; }, "node 5 \"backward\" is 0"},
      {"gpu_ok is a number", [](auto& g) { g["nodes"][2]["gpu_ok"] = 1; }, "node 8 \"gpu_ok\" is 1"},
      {"colour is text", [](auto& g) { g["nodes"][2]["color_class"] = "red"; }, "node 8 \"color_class\" is \"red\""},
      {"edge from nowhere", [](auto& g) { g["edges"][1]["from"] = 4; }, "edges[1]: \"from\": there is no node 4"},
      {"edge to nowhere", [](auto& g) { g["edges"][1]["to"] = 4; }, "edges[1]: \"to\": there is no node 4"},
      {"edge without end", [](auto& g) { g["edges"][1].erase("to"); }, "edges[1]: has no \"to\""},
      {"edge without cost", [](auto& g) { g["edges"][1].erase("cost"); }, "edges[1]: has no \"cost\""},
      {"edge cost is negative", [](auto& g) { g["edges"][1]["cost"] = -1; }, "edges[1]: \"cost\" is -1"},
      {"edge cost is 1e308", [](auto& g) { g["edges"][1]["cost"] = 1e308; }, "edges[1]: \"cost\" is 1e+308"},
      {"edge cost is null", [](auto& g) { g["edges"][1]["cost"] = std::nan(""); }, "edges[1]: \"cost\" is null"},
      {"two costs of one tensor", [](auto& g) { g["edges"][2]["cost"] = 0.5; }, "edges[2]: the edge from node 3"},
      {"no GPU", [](auto& g) { g["devices"]["count"] = 0; }, "devices.count: is 0"},
      {"a billion GPUs", [](auto& g) { g["devices"]["count"] = 1000000000; }, "devices.count: is 1000000000"},
      {"half a GPU", [](auto& g) { g["devices"]["count"] = 2.5; }, "devices.count: is 2.5"},
      {"cpus are negative", [](auto& g) { g["devices"]["cpus"] = -1; }, "devices.cpus: is -1"},
      {"no memory of devices", [](auto& g) { g["devices"].erase("memory_bytes"); }, "devices: has no \"memory_bytes\""},
      {"negative memory of devices", [](auto& g) { g["devices"]["memory_bytes"] = -1; }, "devices.memory_bytes: is -1"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    const Refusal refusal = refusal_of(row.change);
    CHECK(refusal.id == ErrorId::M066);
    CAPTURE(refusal.text);
    CHECK(refusal.text.starts_with("g.json"));
    CHECK(refusal.text.find(row.text) != std::string::npos);
  }
}

TEST_CASE("cost graph: a graph of another kind is not supported, and one that is no JSON is malformed") {
  CHECK(refusal_of([](auto& g) { g["kind"] = "piper"; }).id == ErrorId::M046);
  CHECK_THROWS_AS(parse_cost_graph("{\"nodes\": [", "g.json"), Error);
  CHECK_THROWS_AS(parse_cost_graph("{\"nodes\": [], \"nodes\": []}", "g.json"), Error);
}

}  // namespace mpc
