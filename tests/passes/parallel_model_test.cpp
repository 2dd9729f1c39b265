// Models as chains of blocks for replicated and sharded stages, and what sharding an operator makes of it.

#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include <doctest/doctest.h>

#include "api/reference_evaluator.h"
#include "compiler/cost/estimate.h"
#include "compiler/onnx/model.h"
#include "models/zoo.h"
#include "passes/pipeline.h"
#include "passes/place/parallel/model_graph.h"
#include "passes/place/parallel/shard.h"
#include "tests/unit/helpers.h"

namespace mpc::place {
namespace {

constexpr int64_t kRows = 2;
constexpr int64_t kSequence = 16;
constexpr int64_t kHidden = 32;
constexpr int64_t kLayers = 3;
constexpr int64_t kVocabulary = 64;
constexpr int64_t kMicrobatches = 4;
// The same sums in another order.
constexpr double kRounding = 1e-9;

Graph gpt2(bool is_training) {
  const test::TemporaryFolder folder;
  zoo::Options written;
  written.weights = false;
  written.sizes = {{"layers", kLayers},    {"hidden", kHidden},     {"heads", 4},
                   {"vocab", kVocabulary}, {"sequence", kSequence}, {"positions", kSequence}};
  zoo::write("gpt2", written, folder / "model.onnx");
  const onnx_io::Model model = onnx_io::Model::load(folder / "model.onnx");
  PlanOptions options;
  options.batch = kRows * kMicrobatches;
  options.microbatches = kMicrobatches;
  options.train = is_training;
  options.optimizer.optimizer = parse_optimizer("adam,lr=0.001");
  return make_front_graphs(model, options, ReferenceEvaluator()).main;
}

Machines machines(int64_t gpus) {
  Machines machines;
  machines.gpu = uniform_cluster(*find_device_kind("h100-80g"), 1).devices.front();
  machines.gpus = gpus;
  machines.bytes_per_second_in_node = 4e11;
  machines.bytes_per_second_between_nodes = 5e10;
  return machines;
}

TEST_CASE(
    "shard: a transformer layer sums up two values forward and two gradients backward, and divides every product") {
  const Graph graph = gpt2(true);
  const Sharding sharding = shard(graph, 2);
  const double activation_bytes = kRows * kSequence * kHidden * 4;
  std::map<std::string, double> forward;
  std::map<std::string, double> backward;
  for (int n = 0; n < graph.node_count(); ++n) {
    const Node& node = graph.node(NodeId(n));
    const Sharding::NodeShare& share = sharding.nodes[static_cast<size_t>(n)];
    if (node.phase != Phase::forward) continue;
    if (node.op == OpKind::MatMul || node.op == OpKind::Gemm) {
      INFO(node.name);
      CHECK(share.is_divided);
    }
    const std::string scope = node.name.substr(0, node.name.find('/'));
    forward[scope] += share.reduced_forward;
    backward[scope] += share.reduced_backward;
  }
  for (int layer = 0; layer < kLayers; ++layer) {
    const std::string scope = "blocks." + std::to_string(layer);
    CHECK(forward[scope] == 2 * activation_bytes);   // after the attention, after the feed-forward part
    CHECK(backward[scope] == 2 * activation_bytes);  // before both
  }
}

TEST_CASE("shard: one device divides nothing") {
  const Graph graph = gpt2(false);
  for (const Sharding::NodeShare& share : shard(graph, 1).nodes) {
    CHECK_FALSE(share.is_divided);
    CHECK(share.reduced_forward == 0);
  }
}

TEST_CASE("model graph: blocks hold every parameter once, and borders are crossed by one activation") {
  const Graph graph = gpt2(true);
  const ModelGraph model = model_graph(graph, machines(16), kMicrobatches);
  int64_t parameters = 0;
  for (const Value& value : graph.values())
    parameters += value.kind == ValueKind::parameter ? value.shape.elements() : 0;
  int64_t in_blocks = 0;
  for (const ModelBlock& block : model.blocks) in_blocks += block.parameters;
  CHECK(in_blocks == parameters);
  CHECK(model.blocks.size() >= static_cast<size_t>(2 * kLayers));
  CHECK(model.graph.edges.size() == model.blocks.size() - 1);
  for (const ParallelEdge& edge : model.graph.edges) CHECK(edge.bytes >= kRows * kSequence * kHidden * 4);
  CHECK(model.graph.degrees == std::vector<int>{1, 2, 4, 8});
}

TEST_CASE("model graph: undivided, the blocks take the time of the nodes, and memory holds what training holds") {
  const Graph graph = gpt2(true);
  const Machines sixteen = machines(16);
  const ModelGraph model = model_graph(graph, sixteen, kMicrobatches);
  double expected = 0;
  double state_bytes = 0;
  double parameter_bytes = 0;
  for (int n = 0; n < graph.node_count(); ++n) {
    const double seconds = node_seconds(graph, NodeId(n), sixteen.gpu);
    expected += graph.node(NodeId(n)).rate == Rate::per_step ? seconds / kMicrobatches : seconds;
  }
  for (const Value& value : graph.values()) {
    if (value.kind == ValueKind::parameter) parameter_bytes += static_cast<double>(value.bytes());
    if (value.kind == ValueKind::state) state_bytes += static_cast<double>(value.bytes());
  }
  double time = 0;
  double states = 0;
  double reduced = 0;
  for (const ParallelNode& node : model.graph.nodes) {
    REQUIRE(node.choices[0].size() == 2);
    const ParallelChoice& keeps = node.choices[0][0];
    const ParallelChoice& again = node.choices[0][1];
    time += keeps.time;
    states += keeps.bytes_over_replicas;
    reduced += keeps.parameter_bytes;
    CHECK(again.time >= keeps.time);
    CHECK(again.bytes_per_microbatch <= keeps.bytes_per_microbatch);
  }
  CHECK(time == doctest::Approx(expected).epsilon(kRounding));
  CHECK(states == doctest::Approx(state_bytes).epsilon(kRounding));
  CHECK(reduced == doctest::Approx(parameter_bytes).epsilon(kRounding));
}

TEST_CASE("model graph: more devices per operator take less time and memory for a large layer") {
  const Graph graph = gpt2(true);
  const ModelGraph model = model_graph(graph, machines(16), kMicrobatches);
  for (const ParallelNode& node : model.graph.nodes) {
    for (size_t degree = 1; degree < node.choices.size(); ++degree)
      CHECK(node.choices[degree][0].parameter_bytes <= node.choices[degree - 1][0].parameter_bytes);
  }
}

TEST_CASE("model graph: inference keeps no activations and reduces nothing") {
  const ModelGraph model = model_graph(gpt2(false), machines(4), 1);
  for (const ParallelNode& node : model.graph.nodes) {
    REQUIRE(node.choices[0].size() == 1);
    CHECK(node.choices[0][0].bytes_per_microbatch == 0);
    CHECK(node.choices[0][0].parameter_bytes == 0);
  }
}

}  // namespace
}  // namespace mpc::place
