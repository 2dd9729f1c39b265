#include "compiler/cost/parallel_graph.h"

#include <functional>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"

namespace mpc {
namespace {

/// Two nodes; the first also over two devices, and with its activations computed again.
Json two_nodes() {
  return Json::parse(R"({
    "kind": "piper", "name": "two", "time_unit": "ms",
    "devices": {"count": 4, "memory_bytes": 1000, "bandwidth_bytes_per_time": 10, "microbatches": 12},
    "nodes": [
      {"id": 7, "variants": {
        "1": [{"id": "vanilla", "timePerSample": 4, "parameterSize": 5, "memoryUsageA": 6, "memoryUsageB": 7,
               "syncTimeFw": {}, "syncTimeBw": {"9": 0}},
              {"id": "again", "timePerSample": 5, "parameterSize": 5, "memoryUsageA": 1, "memoryUsageB": 8,
               "syncTimeFw": {}, "syncTimeBw": {"9": 0}}],
        "2": [{"id": "vanilla", "timePerSample": 2.5, "parameterSize": 2.5, "memoryUsageA": 3, "memoryUsageB": 4,
               "syncTimeFw": {}, "syncTimeBw": {"9": 11}}]}},
      {"id": 9, "variants": {
        "1": [{"id": "vanilla", "timePerSample": 1, "parameterSize": 0, "memoryUsageA": 0, "memoryUsageB": 0,
               "syncTimeFw": {"7": 0}, "syncTimeBw": {}}]}}],
    "edges": [{"from": 7, "to": 9, "bytes": 13}]})");
}

TEST_CASE("parallel graph: degrees, choices, edges and devices are read") {
  const Json json = two_nodes();
  CHECK(is_parallel_graph(json));
  const ParallelGraph graph = parse_parallel_graph(json, "g.json");
  CHECK(graph.name == "two");
  CHECK(graph.degrees == std::vector<int>{1, 2});
  CHECK(graph.devices == 4);
  CHECK(graph.memory_bytes == 1000);
  CHECK(graph.bytes_per_time == 10);
  CHECK(graph.microbatches == 12);
  REQUIRE(graph.nodes.size() == 2);
  const ParallelNode& first = graph.nodes[0];
  CHECK(first.id == 7);
  CHECK(first.choices[0].size() == 2);
  CHECK(first.choices[0][1].name == "again");
  CHECK(first.choices[0][1].bytes_per_microbatch == 1);
  CHECK(first.choices[0][1].fixed_bytes == 8);
  CHECK(first.choices[1][0].time == 2.5);
  CHECK(first.choices[1][0].parameter_bytes == 2.5);
  CHECK(first.choices[1][0].sync_out == std::vector<double>{11});
  CHECK(graph.nodes[1].choices[1].empty());  // it cannot be shared by two devices
  CHECK(graph.edges[0].bytes == 13);
}

TEST_CASE("parallel graph: other graphs are of another kind") {
  CHECK_FALSE(is_parallel_graph(Json::parse(R"({"kind": "placement"})")));
  CHECK_FALSE(is_parallel_graph(Json::parse(R"({"nodes": []})")));
  CHECK_FALSE(is_parallel_graph(Json::parse("[1]")));
}

TEST_CASE("parallel graph: every malformed one is refused, with its place in the message") {
  struct Row {
    const char* what;
    std::function<void(Json&)> change;
    const char* text;
  };
  const Row rows[] = {
      {"no devices", [](Json& g) { g.erase("devices"); }, "has no \"devices\""},
      {"no device", [](Json& g) { g["devices"]["count"] = 0; }, "devices.count: is 0"},
      {"too many devices", [](Json& g) { g["devices"]["count"] = 1 << 30; }, "devices.count"},
      {"no bandwidth", [](Json& g) { g["devices"]["bandwidth_bytes_per_time"] = 0; }, "bandwidth_bytes_per_time: is 0"},
      {"no micro-batch", [](Json& g) { g["devices"]["microbatches"] = 0; }, "devices.microbatches: is 0"},
      {"empty", [](Json& g) { g["nodes"] = Json::array(); }, "nodes: is empty"},
      {"a node twice", [](Json& g) { g["nodes"][1]["id"] = 7; }, "node 7 stands twice"},
      {"no choices", [](Json& g) { g["nodes"][1].erase("variants"); }, "nodes[1]: has no \"variants\""},
      {"a degree of zero", [](Json& g) { g["nodes"][1]["variants"]["0"] = Json::array(); }, "nodes[1].variants.0"},
      {"a degree that is no number", [](Json& g) { g["nodes"][1]["variants"]["2x"] = Json::array(); }, "variants.2x"},
      {"negative time", [](Json& g) { g["nodes"][1]["variants"]["1"][0]["timePerSample"] = -1; },
       "timePerSample: is -1"},
      {"huge bytes", [](Json& g) { g["nodes"][1]["variants"]["1"][0]["memoryUsageA"] = 1e300; }, "memoryUsageA"},
      {"a neighbour without its cost", [](Json& g) { g["nodes"][1]["variants"]["1"][0]["syncTimeFw"].erase("7"); },
       "has no \"7\""},
      {"an edge to nowhere", [](Json& g) { g["edges"][0]["to"] = 8; }, "there is no node 8"},
      {"an edge to itself", [](Json& g) { g["edges"][0]["to"] = 7; }, "from node 7 to itself"},
      {"an edge twice", [](Json& g) { g["edges"].push_back(g["edges"][0]); }, "stands twice"},
      {"negative bytes", [](Json& g) { g["edges"][0]["bytes"] = -1; }, "edges[0].bytes: is -1"},
      {"a cycle",
       [](Json& g) {
         g["edges"].push_back({{"from", 9}, {"to", 7}, {"bytes", 1}});
         for (auto& [degree, list] : g["nodes"][0]["variants"].items()) {
           for (auto& choice : list) choice["syncTimeFw"]["9"] = 0;
         }
         g["nodes"][1]["variants"]["1"][0]["syncTimeBw"]["7"] = 0;
       },
       "has a cycle"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    Json json = two_nodes();
    row.change(json);
    std::string text;
    try {
      parse_parallel_graph(json, "g.json");
    } catch (const Error& error) {
      CHECK(error.id() == ErrorId::M066);
      text = error.what();
    }
    CAPTURE(text);
    CHECK(text.starts_with("g.json"));
    CHECK(text.find(row.text) != std::string::npos);
  }
}

}  // namespace
}  // namespace mpc
