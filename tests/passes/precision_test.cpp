// Plans that compute in bf16: what is rounded and what is not, and that the numbers stay near those of f32.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "compiler/base/error.h"
#include "compiler/ir/parse.h"
#include "passes/lower_precision.h"
#include "passes/round_weights.h"
#include "tests/support/random_graph.h"
#include "tests/support/run_plan.h"

namespace {

using namespace mpc;

constexpr int64_t kBatch = 10;

PlanOptions options_for(uint64_t seed, Precision precision) {
  PlanOptions options;
  options.batch = kBatch;
  options.microbatches = seed % 2 == 0 ? 1 : 4;
  options.train = true;
  options.keep_outputs = true;
  options.loss = LossKind::mse;
  options.precision = precision;
  options.optimizer.optimizer = parse_optimizer(seed % 2 == 0 ? "adam,lr=0.001" : "momentum,lr=0.01");
  return options;
}

Plan plan_for(uint64_t seed, Precision precision, int devices = 1) {
  PlanOptions options = options_for(seed, precision);
  const auto graph_of = [&](int64_t rows) { return test::random_graph(seed, rows, {}); };
  const FrontGraphs graphs = make_front_graphs(graph_of, kBatch, options, "random graph");
  if (devices > 1) options.assignment = test::random_assignment(graphs.main, devices, seed);
  return test::plan_on_cpus(graphs, devices, options);
}

test::Outcome run(const Plan& plan, uint64_t seed) {
  test::RunOptions options;
  options.seed = seed;
  options.steps = 3;
  return test::run_plan(plan, test::SeededWeights(seed), options);
}

/// The dtype of the first result of every node, by name.
std::map<std::string, DType> results_of(const Graph& graph) {
  std::map<std::string, DType> types;
  for (const Node& node : graph.nodes()) types[node.name] = graph.value(node.outputs[0]).dtype;
  return types;
}

}  // namespace

TEST_CASE("precision: products round, normalizations and sums do not, and the rest follows its data") {
  const Graph graph = lower_precision(parse_graph(R"(graph "layer" canonical
input %x f32[2,4]
parameter %w f32[4,4] from "w"
parameter %b f32[4] from "b"
parameter %s f32[4] from "s"
%h f32[2,4] = MatMul(%x, %w) @product
%a f32[2,4] = Add(%h, %b) @bias
%r f32[2,4] = Relu(%a) @relu
%t f32[2,4] = Add(%r, %x) @residual
%n f32[2,4] = LayerNormalization(%t, %s) {axis = -1, epsilon = 1e-5} @norm
%m f32[2,4] = MatMul(%r, %w) @again
%y f32[2,4] = Softmax(%m) {axis = -1} @softmax
output n = %n
output r = %r
output y = %y
)"),
                                      DType::bf16);
  const std::map<std::string, DType> types = results_of(graph);
  CHECK(types.at("product") == DType::bf16);
  CHECK(types.at("bias") == DType::bf16);  // the bias is a weight: it follows
  CHECK(types.at("relu") == DType::bf16);
  CHECK(types.at("residual") == DType::f32);  // x is data in f32
  CHECK(types.at("norm") == DType::f32);
  CHECK(types.at("softmax") == DType::f32);
  for (const NamedValue& output : graph.outputs) CHECK(graph.value(output.value).dtype == DType::f32);
  int casts = 0;
  for (const Node& node : graph.nodes()) casts += node.op == OpKind::Cast ? 1 : 0;
  // x, w and b down; r for the residual (and as an output) and m up: w, which two products read, is cast once.
  CHECK(casts == 5);
}

TEST_CASE("precision: batch normalization reads and writes 16 bits, with its channels in f32") {
  const Graph graph = lower_precision(parse_graph(R"(graph "block" canonical
input %x f32[2,3,4,4]
parameter %w f32[3,3,1,1] from "w"
parameter %s f32[3] from "s"
parameter %b f32[3] from "b"
parameter %m f32[3] from "m" frozen
parameter %v f32[3] from "v" frozen
%c f32[2,3,4,4] = Conv(%x, %w) @conv
%n f32[2,3,4,4], %m2 f32[3], %v2 f32[3], %mean f32[3], %inv f32[3] = BatchNormalizationTraining(%c, %s, %b, %m, %v) @norm
%r f32[2,3,4,4] = Relu(%n) @relu
%k f32[2,3,4,4], %m3 f32[3], %v3 f32[3], _, _ = BatchNormalizationTraining(%x, %s, %b, %m, %v) @alone
output r = %r
output k = %k
)"),
                                      DType::bf16);
  const std::map<std::string, DType> types = results_of(graph);
  CHECK(types.at("norm") == DType::bf16);
  CHECK(types.at("relu") == DType::bf16);
  CHECK(types.at("alone") == DType::f32);  // x is data in f32
  for (const Node& node : graph.nodes()) {
    if (node.name != "norm") continue;
    for (size_t i = 1; i < 5; ++i) {
      CHECK(graph.value(node.inputs[i]).dtype == DType::f32);
      CHECK(graph.value(node.outputs[i]).dtype == DType::f32);
    }
  }
}

TEST_CASE("precision: a bf16 plan keeps parameters, sums of gradients and optimizer state in f32") {
  int products = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    const Plan plan = plan_for(seed, Precision::bf16);
    CHECK(plan.precision == "bf16");
    for (const PlanValue& value : plan.values) {
      const bool lasts = value.kind == PlanValueKind::parameter || value.kind == PlanValueKind::state;
      if (lasts && is_float(value.dtype)) CHECK(value.dtype == DType::f32);
    }
    for (const PlanNode& node : plan.nodes) {
      if (node.op == OpKind::GradAccumulate) CHECK(plan.values[node.inputs[0]].dtype == DType::f32);
      if (node.op != OpKind::MatMul && node.op != OpKind::Gemm) continue;
      CHECK(plan.values[node.inputs[0]].dtype == DType::bf16);
      ++products;
    }
    for (const PlanNode& node : plan_for(seed, Precision::f32).nodes) CHECK(node.op != OpKind::Cast);
  }
  CHECK(products > 100);
}

TEST_CASE("precision: gradients that products and sums make are not rounded before they are summed") {
  int unrounded = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    const Plan plan = plan_for(seed, Precision::bf16);
    std::map<PlanIndex, const PlanNode*> makers;
    for (const PlanNode& node : plan.nodes) {
      for (const PlanIndex output : node.outputs) makers[output] = &node;
    }
    for (const PlanNode& node : plan.nodes) {
      if (node.op != OpKind::GradAccumulate || !makers.contains(node.inputs[0])) continue;
      const PlanNode& maker = *makers.at(node.inputs[0]);
      unrounded += maker.op == OpKind::Gemm || maker.op == OpKind::ReduceSum;
      if (maker.op != OpKind::Cast || !makers.contains(maker.inputs[0])) continue;
      const OpKind cast = makers.at(maker.inputs[0])->op;
      CHECK(cast != OpKind::Gemm);
      CHECK(cast != OpKind::ReduceSum);
    }
  }
  CHECK(unrounded > 100);
}

TEST_CASE("precision: one node per device rounds its parameters") {
  int rounded = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    const Plan plan = plan_for(seed, Precision::bf16, 2);
    std::map<uint32_t, int> nodes;  // by device
    for (const PlanNode& node : plan.nodes) {
      const bool is_cast = node.op == OpKind::Cast && plan.values[node.inputs[0]].kind == PlanValueKind::parameter;
      if (!is_cast) continue;
      ++nodes[node.device.index()];
      rounded += static_cast<int>(node.inputs.size());
    }
    for (const auto& [device, count] : nodes) CHECK(count == 1);
  }
  CHECK(rounded > 50);
}

TEST_CASE("precision: training in bf16 stays near training in f32") {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    const test::Outcome exact = run(plan_for(seed, Precision::f32), seed);
    const test::Outcome rounded = run(plan_for(seed, Precision::bf16), seed);
    REQUIRE(exact.losses.size() == rounded.losses.size());
    bool differs = false;
    for (size_t i = 0; i < exact.losses.size(); ++i) {
      // bf16 keeps 8 bits: each of some ten layers rounds by up to 2^-9, and losses are of squares.
      CHECK(rounded.losses[i] == doctest::Approx(exact.losses[i]).epsilon(0.05));
      differs = differs || rounded.losses[i] != exact.losses[i];
    }
    CHECK(differs);  // or nothing was rounded
  }
}

TEST_CASE("precision: a bf16 plan for k devices gives the bits of one") {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    const test::Outcome one = run(plan_for(seed, Precision::bf16), seed);
    const int devices = 2 + static_cast<int>(seed % 3);
    const auto difference = test::find_difference(one, run(plan_for(seed, Precision::bf16, devices), seed));
    CHECK_MESSAGE(!difference.has_value(), difference.value_or(""));
  }
}

TEST_CASE("precision: a forward plan in bf16 gives f32 results near those of f32") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    std::map<Precision, Literal> results;
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      PlanOptions options;
      options.batch = kBatch;
      options.microbatches = 3;  // the last one is smaller
      options.precision = precision;
      const auto graph_of = [&](int64_t rows) { return test::random_graph(seed, rows, {}); };
      const Plan plan = test::plan_on_cpus(make_front_graphs(graph_of, kBatch, options, "random graph"), 1, options);
      results[precision] = run(plan, seed).tensors.at("output y");
    }
    const Literal& exact = results[Precision::f32];
    const Literal& rounded = results[Precision::bf16];
    REQUIRE(rounded.dtype() == DType::f32);
    double difference = 0;
    double total = 0;
    for (int64_t i = 0; i < exact.shape().elements(); ++i) {
      difference += std::pow(exact.number(i) - rounded.number(i), 2);
      total += std::pow(exact.number(i), 2);
    }
    CHECK(std::sqrt(difference) <= 0.05 * std::sqrt(total));  // as above
  }
}

TEST_CASE("precision: what products alone read of a weight is rounded when it is loaded") {
  const Graph graph = round_weights(parse_graph(R"(graph "layer" canonical
input %x bf16[2,4]
parameter %w f32[4,4] from "weight"
parameter %t f32[2,4] from "table"
parameter %r f32[2,4] from "result"
%v bf16[4,4] per_step = Cast(%w) {to = "bf16"} @v
%h bf16[2,4] = MatMul(%x, %v) @h
%s bf16[2,4] per_step = Cast(%t) {to = "bf16"} @s
%a bf16[2,4] = Add(%h, %s) @a
%u f32[2,4] = Cast(%a) {to = "f32"} @u
%y f32[2,4] = Add(%u, %t) @y
%k bf16[2,4] per_step = Cast(%r) {to = "bf16"} @k
output y = %y
output k = %k
)"));
  std::map<std::string, DType> parameters;
  for (int i = 0; i < graph.value_count(); ++i) {
    const Value& value = graph.value(ValueId(i));
    if (value.kind == ValueKind::parameter) parameters[value.source] = value.dtype;
  }
  // The table is read in f32, too, and what is given back is made by a node.
  CHECK(parameters ==
        std::map<std::string, DType>{{"weight", DType::bf16}, {"table", DType::f32}, {"result", DType::f32}});
  CHECK(results_of(graph).count("v") == 0);
  CHECK(graph.node_count() == 6);
}

TEST_CASE("precision: weights that are rounded when they are loaded give the bits of those that a step rounds") {
  int spared = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    PlanOptions options;
    options.batch = kBatch;
    options.may_fuse = false;
    const auto plan_in = [&](Precision precision, bool rounds_in_step) {
      options.precision = precision;
      const auto graph_of = [&](int64_t rows) { return test::random_graph(seed, rows, {}); };
      FrontGraphs graphs = make_front_graphs(graph_of, kBatch, options, "random graph");
      if (rounds_in_step) graphs.main = lower_precision(graphs.main, DType::bf16);
      return test::plan_on_cpus(graphs, 1, options);
    };
    const Plan expected = plan_in(Precision::f32, true);
    const Plan found = plan_in(Precision::bf16, false);
    CHECK(test::find_difference(run(expected, seed), run(found, seed)).value_or("") == "");
    spared += static_cast<int>(expected.nodes.size()) - static_cast<int>(found.nodes.size());
    CHECK(found.devices[0].memory.parameter_bytes <= expected.devices[0].memory.parameter_bytes);
  }
  CHECK(spared > 40);
}

TEST_CASE("precision: a weight that a session keeps in 16 bits is written in f32, and rounded") {
  PlanOptions options;
  options.batch = kBatch;
  options.precision = Precision::bf16;
  const auto graph_of = [&](int64_t rows) { return test::random_graph(1, rows, {}); };
  const Plan plan = test::plan_on_cpus(make_front_graphs(graph_of, kBatch, options, "random graph"), 1, options);
  executor::Session session(plan, test::SeededWeights(1), {});
  int rounded = 0;
  for (const PlanValue& value : plan.values) {
    if (value.kind != PlanValueKind::parameter || value.dtype != DType::bf16) continue;
    // 1 + 2^-9 lies nearer to 1 than to the next of bf16, 1 + 2^-7.
    session.write(value.name, Literal::splat_number(DType::f32, value.shapes[0], 1 + 0x1p-9));
    CHECK(session.read(value.name).dtype() == DType::bf16);
    CHECK(session.read(value.name).number(0) == 1);
    CHECK_THROWS_AS(session.write(value.name, Literal::splat_number(DType::f64, value.shapes[0], 1)), Error);
    ++rounded;
  }
  CHECK(rounded > 0);
}

TEST_CASE("precision: tf32 is refused where no device rounds") {
  try {
    plan_for(1, Precision::tf32);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.id() == ErrorId::M046);
    CHECK(std::string(error.what()).find("tf32") != std::string::npos);
  }
}

namespace {

Plan f16_plan(uint64_t seed, const LossScaleOptions& loss_scale, int devices = 1, double clip_norm = 0) {
  PlanOptions options = options_for(seed, Precision::f16);
  options.loss_scale = loss_scale;
  options.optimizer.clip_norm = clip_norm;
  const auto graph_of = [&](int64_t rows) { return test::random_graph(seed, rows, {}); };
  const FrontGraphs graphs = make_front_graphs(graph_of, kBatch, options, "random graph");
  if (devices > 1) options.assignment = test::random_assignment(graphs.main, devices, seed);
  return test::plan_on_cpus(graphs, devices, options);
}

test::Outcome run_steps(const Plan& plan, uint64_t seed, int steps) {
  test::RunOptions options;
  options.seed = seed;
  options.steps = steps;
  return test::run_plan(plan, test::SeededWeights(seed), options);
}

double state_of(const test::Outcome& outcome, const std::string& name) {
  return outcome.tensors.at(name).number(0);
}

/// The parameters, and the optimizer's state, which lies beside them.
std::map<std::string, Literal> trained(const test::Outcome& outcome) {
  std::map<std::string, Literal> result;
  for (const auto& [name, content] : outcome.tensors) {
    const bool is_other =
        name.starts_with("output ") || name.starts_with("gradient of ") || name.starts_with("loss_scale");
    if (!is_other) result.emplace(name, content);
  }
  return result;
}

// Larger than any gradient of the random graphs can be multiplied by within f16.
constexpr double kTooLarge = 0x1p40;

}  // namespace

TEST_CASE("precision: training in f16 with a scaled loss stays near training in f32") {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    const test::Outcome exact = run(plan_for(seed, Precision::f32), seed);
    // Small enough for every one of these graphs.
    const test::Outcome rounded = run(f16_plan(seed, {.initial = 256}), seed);
    CHECK(state_of(rounded, "loss_scale/skipped") == 0);
    REQUIRE(exact.losses.size() == rounded.losses.size());
    for (size_t i = 0; i < exact.losses.size(); ++i) {
      // f16 keeps 11 bits: each of some ten layers rounds by up to 2^-12, and losses are of squares.
      CHECK(rounded.losses[i] == doctest::Approx(exact.losses[i]).epsilon(0.01));
    }
  }
}

TEST_CASE("precision: a step of f16 that overflows changes no parameter and halves the scale") {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    const test::Outcome before = run_steps(f16_plan(seed, {.initial = kTooLarge}), seed, 1);
    const test::Outcome after = run_steps(f16_plan(seed, {.initial = kTooLarge}), seed, 2);
    CHECK(state_of(before, "loss_scale") == kTooLarge / 2);
    CHECK(state_of(after, "loss_scale") == kTooLarge / 4);
    CHECK(state_of(after, "loss_scale/skipped") == 2);
    CHECK(!trained(before).empty());
    CHECK((trained(before) == trained(after)));
  }
}

TEST_CASE("precision: steps of f16 after overflows are those that would have come without them") {
  // Each skipped step halves the scale: what follows has the scale, the number of updates and the bits of a start
  // there.
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    const test::Outcome late = run_steps(f16_plan(seed, {.initial = kTooLarge}), seed, 45);
    const double skipped = state_of(late, "loss_scale/skipped");
    CHECK(skipped > 10);
    REQUIRE(skipped < 40);
    const double scale = std::ldexp(kTooLarge, -static_cast<int>(skipped));
    const test::Outcome early = run_steps(f16_plan(seed, {.initial = scale}), seed, 45 - static_cast<int>(skipped));
    CHECK(state_of(early, "loss_scale/skipped") == 0);
    CHECK((trained(early) == trained(late)));
  }
}

TEST_CASE("precision: the scale of f16 grows after the interval, and k devices give the bits of one") {
  const LossScaleOptions grows{.initial = 8, .growth_interval = 2};
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    const test::Outcome one = run_steps(f16_plan(seed, grows, 1, 0.5), seed, 5);
    CHECK(state_of(one, "loss_scale") == 32);
    CHECK(state_of(one, "loss_scale/good") == 1);
    const int devices = 2 + static_cast<int>(seed % 3);
    const auto difference = test::find_difference(one, run_steps(f16_plan(seed, grows, devices, 0.5), seed, 5));
    CHECK_MESSAGE(!difference.has_value(), difference.value_or(""));
  }
}
