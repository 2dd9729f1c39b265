#include "compiler/base/file.h"
#include "mpc/mpc.h"
#include "tests/e2e/cli.h"

using namespace mpc::test;
using nlohmann::json;

namespace {

// A chain of three: 10, 10 and 12 units of time, tensors of cost 1 between them.
constexpr const char* kChain =
    R"({"name": "chain", "time_unit": "ms", "devices": {"count": 2, "memory_bytes": 100, "cpus": 1},
  "nodes": [{"id": 1, "time_gpu": 10, "time_cpu": 11, "memory_bytes": 60, "backward": false},
            {"id": 2, "time_gpu": 10, "memory_bytes": 30, "backward": false},
            {"id": 3, "time_gpu": 12, "memory_bytes": 60, "backward": false}],
  "edges": [{"from": 1, "to": 2, "cost": 1}, {"from": 2, "to": 3, "cost": 1}]})";

std::string chain(const TemporaryFolder& folder) {
  mpc::write_file_atomic(folder / "chain.json", std::string_view(kChain));
  return folder / "chain.json";
}

}  // namespace

TEST_CASE("cost graph: the answer has every node's device, the value, its bound and the devices") {
  const TemporaryFolder folder;
  const json answer = answer_of({"partition", "--cost-graph", chain(folder), "--contiguous"});
  // 1 on the CPU core (11), 2 on one GPU (10, a tensor in, a tensor out), 3 on the other (12 and a tensor in).
  CHECK(answer["feasible"] == true);
  CHECK(answer["assignment"] == json({{"1", 2}, {"2", 0}, {"3", 1}}));
  CHECK(answer["objective"]["value"] == 13);
  CHECK(answer["objective"]["lower_bound"] == 13);
  CHECK(answer["objective"]["optimal"] == true);
  CHECK(answer["devices"][0]["compute"] == 10);
  CHECK(answer["devices"][0]["received"] == 1);
  CHECK(answer["devices"][0]["sent"] == 1);
  CHECK(answer["devices"][1]["load"] == 13);
  CHECK(answer["devices"][2]["load"] == 11);
  CHECK(answer["devices"][2]["memory_bytes"] == 60);
  CHECK(answer["seconds"].is_number());
}

TEST_CASE("cost graph: without CPU cores the same graph needs two stages on GPUs") {
  const TemporaryFolder folder;
  // 1 and 2 together: 20 of compute and a tensor out.
  const json answer = answer_of({"partition", "--cost-graph", chain(folder), "--cpus", "0", "--budget", "200ms"});
  CHECK(answer["objective"]["value"] == 21);
  CHECK(answer["devices"].size() == 2);
}

TEST_CASE("cost graph: what fits nowhere ends with code 5 and names the missing bytes") {
  const TemporaryFolder folder;
  json graph = json::parse(kChain);
  graph["devices"] = {{"count", 1}, {"memory_bytes", 100}};
  mpc::write_file_atomic(folder / "g.json", std::string_view(graph.dump()));
  for (const char* kind : {"--contiguous", "--quiet"}) {
    const CommandResult result = run_mpc({"partition", "--cost-graph", folder / "g.json", kind, "--json", "-"});
    CHECK(result.exit_code == 5);
    const json answer = json::parse(result.out);
    CHECK(answer["feasible"] == false);
    CHECK(!answer.contains("assignment"));
  }
  const json free = json::parse(run_mpc({"partition", "--cost-graph", folder / "g.json", "--json", "-"}).out);
  CHECK(free["needs"][0]["bytes"] == 150);
  CHECK(free["needs"][0]["capacity_bytes"] == 100);
}

TEST_CASE("cost graph: the text for people has a row per device and the gap") {
  const TemporaryFolder folder;
  const CommandResult result = run_mpc({"partition", "--cost-graph", chain(folder), "--contiguous"});
  CHECK(result.exit_code == 0);
  for (const char* word :
       {"gpu:0", "gpu:1", "cpu:0", "compute", "received", "sent", "memory", "largest load 13 ms", "optimal"}) {
    CAPTURE(word);
    CHECK(result.out.find(word) != std::string::npos);
  }
}

TEST_CASE("cost graph: the library gives what the program gives") {
  const TemporaryFolder folder;
  mpc::CostGraphOptions options;
  options.contiguous = true;
  const mpc::CostGraphSplit split = mpc::split_cost_graph(chain(folder), options);
  CHECK(split.feasible);
  CHECK(split.optimal);
  CHECK(split.value == 13);
  CHECK(split.nodes.size() == 3);
  CHECK(json::parse(split.report_json())["objective"]["value"] == 13);
  options.budget_seconds = -1;
  CHECK_THROWS_AS(mpc::split_cost_graph(chain(folder), options), mpc::Error);
}
