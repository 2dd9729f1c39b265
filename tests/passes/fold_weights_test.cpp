// What is made of weights alone is made when they are loaded, with the same bits.

#include "passes/fold_weights.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "compiler/ir/parse.h"
#include "compiler/ir/print.h"
#include "compiler/ir/verify.h"
#include "compiler/plan/text.h"
#include "tests/support/ops_of.h"
#include "tests/support/random_graph.h"
#include "tests/support/run_plan.h"

namespace {

using namespace mpc;
using test::ops_of;

const std::string kWeights =
    "parameter %a f32[3,4] from \"a\" frozen\nparameter %b f32[4,2] from \"b\" frozen\n"
    "parameter %c f32[2,3,4] from \"c\" frozen\n";

Graph folded(const std::string& body) {
  Graph result = fold_weights(parse_graph("graph \"g\" canonical\n" + kWeights + body));
  verify(result);
  return result;
}

const WeightRecipe& recipe_of(const Graph& graph, const std::string& name) {
  for (const Value& value : graph.values()) {
    if (value.name == name) return value.recipe;
  }
  FAIL("no value " << name);
  return graph.values().front().recipe;
}

using Ops = std::vector<OpKind>;

// Weights side by side, transposed before and after, in two and in three dimensions, rounded and seen in another shape.
Graph sample(int64_t rows) {
  const std::string n = std::to_string(rows);
  return parse_graph("graph \"g\" imported\ninput %x f32[" + n + ",5]\n" + kWeights +
                     "%at f32[4,3] = Transpose(%a) {perm = [1,0]} @at per_step\n"
                     "%j f32[4,5] = Concat(%at, %b) {axis = 1} @j per_step\n"
                     "%jt f32[5,4] = Transpose(%j) {perm = [1,0]} @jt per_step\n"
                     "%s f32[5] = ReduceSum(%jt) {axes = [1], keepdims = 0, noop_with_empty_axes = 0} @s per_step\n"
                     "%y f32[" +
                     n +
                     ",5] = Mul(%x, %s) @y\n"
                     "%ct f32[4,2,3] = Transpose(%c) {perm = [2,0,1]} @ct per_step\n"
                     "%h bf16[4,2,3] = Cast(%ct) {to = \"bf16\"} @h per_step\n"
                     "%hr bf16[24] = Reshape(%h) {allowzero = 0, shape = [24]} @hr per_step\n"
                     "%w f32[24] = Cast(%hr) {to = \"f32\"} @w per_step\n"
                     "%k f32[24] = Exp(%w) @k per_step\n"
                     "%t f32[] = ReduceSum(%k) {axes = [0], keepdims = 0, noop_with_empty_axes = 0} @t per_step\n"
                     "%z f32[" +
                     n +
                     ",5] = Mul(%y, %t) @z\n"
                     "output z = %z\n");
}

}  // namespace

TEST_CASE("fold_weights: what moves and rounds the elements of weights becomes a recipe") {
  const Graph one = folded(
      "%t f32[4,3] = Transpose(%a) {perm = [1,0]} per_step\n%h bf16[4,3] = Cast(%t) {to = \"bf16\"} per_step\n"
      "%e bf16[4,3] = Exp(%h) per_step\noutput e = %e\n");
  CHECK(ops_of(one) == Ops{OpKind::Exp});
  CHECK(recipe_of(one, "h") == WeightRecipe{{{"a", Shape{3, 4}, {1, 0}}}, 0, {}, {}});

  const Graph joined = folded(
      "%t f32[4,3] = Transpose(%a) {perm = [1,0]} per_step origin \"n/t (Transpose)\"\n%j f32[4,5] = Concat(%t, %b) "
      "{axis = 1} per_step\n"
      "%u f32[5,4] = Transpose(%j) {perm = [1,0]} per_step\n%r f32[20] = Reshape(%u) {shape = [20]} per_step\n"
      "%e f32[20] = Exp(%r) per_step\noutput e = %e\n");
  CHECK(ops_of(joined) == Ops{OpKind::Exp});
  CHECK(recipe_of(joined, "r") ==
        WeightRecipe{{{"a", Shape{3, 4}, {1, 0}}, {"b", Shape{4, 2}, {}}}, 1, {1, 0}, {"n/t (Transpose)"}});
  CHECK(print(parse_graph(print(joined))) == print(joined));

  const Graph rounded =
      folded("%h bf16[3,4] = Cast(%a) {to = \"bf16\"} per_step\n%e bf16[3,4] = Exp(%h) per_step\noutput e = %e\n");
  CHECK(ops_of(rounded) == Ops{OpKind::Exp});
  CHECK(recipe_of(rounded, "h").is_empty());  // its source, rounded
}

TEST_CASE("fold_weights: what a recipe cannot say, and what the model gives out, stays a node") {
  const std::string tail = "%e f32[12] = Exp(%r) per_step\noutput e = %e\n";
  CHECK(ops_of(folded("%q f32[12] = Reshape(%a) {shape = [12]} per_step\n%p f32[4,3] = Reshape(%q) {shape = [4,3]} "
                      "per_step\n%t f32[3,4] = Transpose(%p) {perm = [1,0]} per_step\n"
                      "%r f32[12] = Reshape(%t) {shape = [12]} per_step\n" +
                      tail)) == Ops{OpKind::Transpose, OpKind::Reshape, OpKind::Exp});
  CHECK(ops_of(folded("%t f32[4,3] = Transpose(%a) {perm = [1,0]} per_step\noutput t = %t\n")) ==
        Ops{OpKind::Transpose});
  CHECK(ops_of(folded("%e f32[3,4] = Exp(%a) per_step\noutput e = %e\n")) == Ops{OpKind::Exp});
}

TEST_CASE("fold_weights: sessions make of the model what the nodes made of it, on any device") {
  PlanOptions options;
  options.batch = 6;
  options.microbatches = 2;
  options.train = false;
  const auto plan_of = [&](bool may_fuse, int devices) {
    options.may_fuse = may_fuse;
    const FrontGraphs graphs = make_front_graphs(sample, options.batch, options, "g");
    options.assignment.clear();
    if (devices > 1) options.assignment = test::random_assignment(graphs.main, devices, 3);
    return test::plan_on_cpus(graphs, devices, options);
  };
  const Plan plain = plan_of(false, 1);
  const auto made = [](const Plan& plan) {
    int count = 0;
    for (const PlanValue& value : plan.values) count += value.recipe.is_empty() ? 0 : 1;
    return count;
  };
  CHECK(made(plain) == 0);
  const test::SeededWeights weights(1);
  const test::Outcome expected = test::run_plan(plain, weights, {});
  for (const int devices : {1, 3}) {
    CAPTURE(devices);
    const Plan plan = plan_of(true, devices);
    CHECK(made(plan) >= 2);
    CHECK(plan.nodes.size() < plain.nodes.size());
    CHECK(parse_plan(print_plan(plan), "plan") == plan);
    const auto difference = test::find_difference(expected, test::run_plan(plan, weights, {}));
    CHECK_MESSAGE(!difference, difference.value_or(""));
  }
}
