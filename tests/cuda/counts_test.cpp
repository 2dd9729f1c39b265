// Exact counts of what a GPU would be given: launches per layer of a transformer, transposes in a ResNet-50. They hold
// what is, so that a change shows; docs/cuda.md says what they are to become.

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "api/reference_evaluator.h"
#include "compiler/cost/cluster.h"
#include "tests/cuda/fake_device.h"
#include "tests/cuda/model_file.h"
#include "tests/cuda/plans.h"
#include "tests/support/random_graph.h"
#include "tests/support/run_plan.h"

namespace {

using namespace mpc;

/// GPT-2 or BERT with sizes that a host can run; the nodes are those of the real ones.
zoo::Options small_transformer(int64_t layers) {
  zoo::Options options;
  options.batch = 2;
  options.sizes = {{"layers", layers}, {"hidden", 16}, {"heads", 2}, {"vocab", 32}, {"positions", 128}};
  return options;
}

PlanOptions plan_options(bool is_training, Precision precision) {
  PlanOptions options;
  options.precision = precision;
  options.batch = 2;
  options.train = is_training;
  options.loss = LossKind::cross_entropy;
  options.optimizer.optimizer = parse_optimizer("adam");
  return options;
}

struct Launches {
  int64_t all = 0;
  int64_t updates = 0;
};

Launches launches_of(int64_t layers, bool is_training, Precision precision = Precision::f32,
                     const std::string& name = "gpt2") {
  const test::ModelFile file(name, small_transformer(layers));
  const onnx_io::Model model = file.load();
  const ReferenceEvaluator evaluator;
  const Plan plan = test::on_gpus(test::plan_on_cpus(model, 1, plan_options(is_training, precision), evaluator), {0});
  test::RunOptions run;
  run.steps = 1;
  run.session.cuda_plugin = test::fake_plugin({});
  test::run_plan(plan, model.weights(), run);
  Launches launches;
  launches.all = test::fake_counts().launches;
  launches.updates =
      std::ranges::count_if(plan.nodes, [](const PlanNode& node) { return node.op == OpKind::AdamUpdate; });
  return launches;
}

}  // namespace

TEST_CASE("counts: launches per layer of GPT-2") {
  // One layer more is one layer's launches: embedding, head and loss cancel out.
  const int64_t forward = launches_of(3, false).all - launches_of(2, false).all;
  const Launches two = launches_of(2, true);
  const Launches three = launches_of(3, true);
  CHECK(forward == 17);
  CHECK(three.all - two.all == 47);  // 18 forwards: Gelu's operand is kept for its gradient; 29 backwards
  CHECK(two.updates == 1);
  CHECK(three.updates == 1);
}

TEST_CASE("counts: launches per layer of GPT-2 in bf16, where attention is one op without transposes") {
  const int64_t forward = launches_of(3, false, Precision::bf16).all - launches_of(2, false, Precision::bf16).all;
  const Launches two = launches_of(2, true, Precision::bf16);
  const Launches three = launches_of(3, true, Precision::bf16);
  const int64_t updates = three.updates - two.updates;
  const int64_t training = three.all - two.all;
  // The casts of the weights are one launch per step; normalizations write 16 bits themselves.
  CHECK(forward == 7);
  CHECK(training - updates == 24);  // 8 forward: Gelu's operand is kept for its gradient; 16 backward
}

TEST_CASE("counts: launches per layer of BERT in bf16") {
  const auto all = [](int64_t layers, bool is_training) {
    return launches_of(layers, is_training, Precision::bf16, "bert-base").all;
  };
  CHECK(all(3, false) - all(2, false) == 8);
  // 8 forward and 17 backward: one more than GPT-2's 16, Gelu's gradient, by erf, which is in no epilogue of a library.
  CHECK(all(3, true) - all(2, true) == 25);
}

TEST_CASE("counts: sums of weight gradients over micro-batches are launches of their products, with the same bits") {
  constexpr int64_t kBatch = 10;
  constexpr int kGraphs = 12;
  int64_t fused = 0;
  int64_t spared = 0;
  for (uint64_t seed = 1; seed <= kGraphs; ++seed) {
    CAPTURE(seed);
    PlanOptions options;
    options.batch = kBatch;
    options.microbatches = 4;
    options.train = true;
    options.loss = LossKind::mse;
    options.optimizer.optimizer = parse_optimizer("momentum,lr=0.05");
    options.precision = seed % 3 == 0 ? Precision::bf16 : Precision::f32;
    const auto graph_of = [&](int64_t rows) { return test::random_graph(seed, rows, {}); };
    const FrontGraphs graphs = make_front_graphs(graph_of, kBatch, options, "random graph");
    const auto run = [&](const Plan& plan, const std::vector<int>& gpus) {
      test::RunOptions run_options;
      run_options.seed = seed;
      run_options.session.cuda_plugin = test::fake_plugin({});
      return test::run_plan(test::on_gpus(plan, gpus), test::SeededWeights(seed), run_options);
    };
    // A plan for CPU devices keeps product and sum apart.
    const test::Outcome expected = run(test::plan_on_cpus(graphs, 1, options), {0});
    const int64_t apart = test::fake_counts().launches;
    for (const int devices : {1, 3}) {
      const auto made = make_plan(graphs, uniform_cluster(*find_device_kind("h200"), devices), options);
      REQUIRE(std::holds_alternative<Plan>(made));
      const Plan& plan = std::get<Plan>(made);
      const int64_t sums = std::ranges::count_if(
          plan.nodes, [](const PlanNode& node) { return node.op == OpKind::GradAccumulate && node.inputs.size() > 2; });
      const test::Outcome found = run(plan, std::vector<int>(static_cast<size_t>(devices), 0));
      CHECK(test::difference(expected, found) == "");
      fused += sums;
      if (devices == 1) spared += apart - test::fake_counts().launches;
    }
  }
  CHECK(fused > 2 * kGraphs);
  CHECK(spared > 0);
}

TEST_CASE("counts: no transpose is left in a ResNet-50, forward or backward") {
  zoo::Options options;
  options.batch = 2;
  options.weights = false;
  const test::ModelFile file("resnet50", options);
  const onnx_io::Model model = file.load();
  const ReferenceEvaluator evaluator;
  for (const bool is_training : {false, true}) {
    PlanOptions plan_options;
    plan_options.batch = 2;
    plan_options.train = is_training;
    plan_options.loss = LossKind::cross_entropy;
    const Plan plan = test::plan_on_cpus(model, 1, plan_options, evaluator);
    CHECK(std::ranges::none_of(plan.nodes, [](const PlanNode& node) { return node.op == OpKind::Transpose; }));
    CHECK(plan.nodes.size() > 100);
  }
}
