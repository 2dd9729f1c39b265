// Which inputs are cut into micro-batches, and narrow weights that every micro-batch reads through the same nodes.

#include <doctest/doctest.h>

#include <string>

#include "api/reference_evaluator.h"
#include "passes/pipeline.h"
#include "tests/support/run_plan.h"
#include "tests/unit/onnx_support.h"

namespace mpc::test {
namespace {

// b has a batch dimension with a name of its own; c has none.
const char* const kThreeInputs =
    "(float[n, 4] a, float[m, 4] b, float[t, 4] c) => (float[n, 4] y) { d = Add(a, b) y = MatMul(d, c) }";

FrontGraphs front(const std::string& model, const PlanOptions& options) {
  return make_front_graphs(load(parse_graph(model)), options, ReferenceEvaluator());
}

Shape input_shape(const FrontGraphs& graphs, size_t i) {
  return graphs.main.value(graphs.main.inputs[i]).shape;
}

}  // namespace

TEST_CASE("batch: an input whose dimension 0 has its own name is cut where that is as long as the batch") {
  PlanOptions options;
  options.microbatches = 2;
  options.input_shapes = {{"a", {6, 4}}, {"b", {6, 4}}, {"c", {4, 4}}};
  const FrontGraphs given = front(kThreeInputs, options);
  CHECK(input_shape(given, 0) == Shape{3, 4});
  CHECK(input_shape(given, 1) == Shape{3, 4});
  CHECK(input_shape(given, 2) == Shape{4, 4});
  REQUIRE(given.notes.size() == 1);
  CHECK(given.notes[0].find("input \"b\" is cut into micro-batches, too") != std::string::npos);

  // What no one has bound is the batch that is given.
  options.input_shapes.clear();
  options.batch = 6;
  options.dims = {{"t", 4}};
  const FrontGraphs open = front(kThreeInputs, options);
  CHECK(input_shape(open, 1) == Shape{3, 4});
  REQUIRE(open.notes.size() == 1);
  CHECK(open.notes[0].find("--dim m=N") != std::string::npos);
  CHECK(input_shape(front(kThreeInputs, options), 2) == Shape{4, 4});
}

TEST_CASE("batch: a dimension that stands elsewhere too is no batch, however long it is") {
  PlanOptions options;
  options.microbatches = 2;
  options.input_shapes = {{"a", {6, 6}}, {"w", {6, 4}}};
  const FrontGraphs graphs = front("(float[n, k] a, float[k, 4] w) => (float[n, 4] y) { y = MatMul(a, w) }", options);
  CHECK(input_shape(graphs, 0) == Shape{3, 6});
  CHECK(input_shape(graphs, 1) == Shape{6, 4});
  CHECK(graphs.notes.empty());
}

TEST_CASE("training: narrow weights that pass through nodes of their own have gradients") {
  for (const char* node : {"Neg(p)", "Unsqueeze(p, axis)", "Add(p, p)", "Slice(p, axis, end)"}) {
    for (const char* type : {"bfloat16", "float16"}) {
      CAPTURE(node);
      CAPTURE(type);
      const std::string t = type;
      const std::string graph = "(" + t + "[n, 4] x) => (" + t + "[n, 4] y) <" + t +
                                "[4] p = {1, 2, 3, 4}, int64[1] axis = {0}, int64[1] end = {4}> { q = " + node +
                                " y = Mul(x, q) }";
      PlanOptions options;
      options.train = true;
      options.loss = LossKind::mse;
      options.batch = 4;
      options.microbatches = 2;
      const FrontGraphs graphs = front(graph, options);
      CHECK(graphs.main.gradients.size() == 1);
      const onnx_io::Model model = load(parse_graph(graph));
      for (const int devices : {1, 2}) {
        const Outcome outcome = run_plan(plan_on_cpus(graphs, devices, options), model.weights(), RunOptions{});
        CHECK(!outcome.losses.empty());
      }
    }
  }
}

}  // namespace mpc::test
