// Attention that is spelled out becomes one op: which spellings, and that the numbers stay.

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "compiler/ir/parse.h"
#include "compiler/ir/verify.h"
#include "passes/attention.h"
#include "tests/support/random_graph.h"
#include "tests/support/run_plan.h"

namespace {

using namespace mpc;

/// Two heads of width 4 over 3 positions. `middle` makes %p (1, 2, 3, 3) of the product %s; `end` reads %z.
std::string model(const std::string& middle, const std::string& end = "output z = %z\n") {
  return R"(graph "attention" canonical
input %x f32[1,3,2,4]
constant %half f32[] = 0.5
constant %two f32[] = 2
constant %low f32[] = -1e9
constant %row i64[1,3] = [0, 1, 2]
constant %column i64[3,1] = [0, 1, 2]
constant %causal bool[3,3] = [true, false, false, true, true, false, true, true, true]
constant %other bool[3,3] = [true, true, false, true, true, true, true, true, true]
constant %added f32[3,3] = [0, -1e9, -1e9, 0, 0, -1e9, 0, 0, 0]
%q f32[1,2,3,4] = Transpose(%x) {perm = [0, 2, 1, 3]} @q
%k f32[1,2,3,4] = Transpose(%x) {perm = [0, 2, 1, 3]} @k
%v f32[1,2,3,4] = Transpose(%x) {perm = [0, 2, 1, 3]} @v
%qs f32[1,2,3,4] = Mul(%q, %half) @scale
%kt f32[1,2,4,3] = Transpose(%k) {perm = [0, 1, 3, 2]} @kt
%s f32[1,2,3,3] = MatMul(%qs, %kt) @product
)" + middle +
         R"(%z f32[1,2,3,4] = MatMul(%p, %v) @mix
)" + end;
}

int count(const Graph& graph, OpKind op) {
  return static_cast<int>(std::ranges::count_if(graph.nodes(), [&](const Node& node) { return node.op == op; }));
}

const Node* attention_of(const Graph& graph) {
  const auto found = std::ranges::find(graph.nodes(), OpKind::ScaledDotProductAttention, &Node::op);
  return found == graph.nodes().end() ? nullptr : &*found;
}

const std::string kSoftmax = "%p f32[1,2,3,3] = Softmax(%s) {axis = 3} @softmax\n";

}  // namespace

TEST_CASE("raise_attention: a scaled product, a softmax and a product become one op") {
  const Graph graph = raise_attention(parse_graph(model(kSoftmax)));
  const Node* attention = attention_of(graph);
  REQUIRE(attention != nullptr);
  CHECK(attention->attributes.number("scale") == 0.5);
  CHECK_FALSE(attention->attributes.flag("is_causal"));
  // q, k and v are read before their transposes; the result is given back under its own.
  for (const ValueId input : attention->inputs) CHECK(graph.value(input).name == "x");
  CHECK(count(graph, OpKind::Transpose) == 1);
  CHECK(count(graph, OpKind::MatMul) == 0);
  CHECK(count(graph, OpKind::Softmax) == 0);
  verify(graph);
}

TEST_CASE("raise_attention: the thirds of one projection are read where they lie") {
  const auto raised = [](const std::string& thirds) {
    return raise_attention(parse_graph(R"(graph "packed" canonical
input %x f32[1,3,24]
)" + thirds + R"(%qr f32[1,3,2,4] = Reshape(%q) {allowzero = 0, shape = [1, 3, 2, 4]} @qr
%kr f32[1,3,2,4] = Reshape(%k) {allowzero = 0, shape = [1, 3, 2, 4]} @kr
%vr f32[1,3,2,4] = Reshape(%v) {allowzero = 0, shape = [1, 3, 2, 4]} @vr
%qt f32[1,2,3,4] = Transpose(%qr) {perm = [0, 2, 1, 3]} @qt
%kt f32[1,2,4,3] = Transpose(%kr) {perm = [0, 2, 3, 1]} @kt
%vt f32[1,2,3,4] = Transpose(%vr) {perm = [0, 2, 1, 3]} @vt
%s f32[1,2,3,3] = MatMul(%qt, %kt) @product
%p f32[1,2,3,3] = Softmax(%s) {axis = 3} @softmax
%m f32[1,2,3,4] = MatMul(%p, %vt) @mix
%y f32[1,3,2,4] = Transpose(%m) {perm = [0, 2, 1, 3]} @join
output y = %y
)"));
  };
  const Graph packed =
      raised("%q f32[1,3,8], %k f32[1,3,8], %v f32[1,3,8] = Split(%x) {axis = 2, split = [8, 8, 8]} @split\n");
  const Node* attention = attention_of(packed);
  REQUIRE(attention != nullptr);
  REQUIRE(attention->inputs.size() == 1);
  CHECK(packed.value(attention->inputs[0]).shape == Shape{1, 3, 3, 2, 4});
  CHECK(packed.node_count() == 2);  // a Reshape, which moves nothing, and the attention
  verify(packed);
  // In another order they are three operands.
  const Graph other =
      raised("%k f32[1,3,8], %q f32[1,3,8], %v f32[1,3,8] = Split(%x) {axis = 2, split = [8, 8, 8]} @split\n");
  REQUIRE(attention_of(other) != nullptr);
  CHECK(attention_of(other)->inputs.size() == 3);
  CHECK(count(other, OpKind::Split) == 1);
}

TEST_CASE("raise_attention: the transpose that joins the heads goes") {
  const Graph graph = raise_attention(
      parse_graph(model(kSoftmax, "%y f32[1,3,2,4] = Transpose(%z) {perm = [0, 2, 1, 3]} @join\noutput y = %y\n")));
  REQUIRE(attention_of(graph) != nullptr);
  CHECK(graph.node_count() == 1);
}

TEST_CASE("raise_attention: scales of the product and causal masks by Where and by Add are taken in") {
  const std::string divided = "%d f32[1,2,3,3] = Div(%s, %two) @divide\n";
  const Graph where = raise_attention(parse_graph(model(divided + R"(%m f32[1,2,3,3] = Where(%causal, %d, %low) @mask
%p f32[1,2,3,3] = Softmax(%m) {axis = 3} @softmax
)")));
  const Graph added = raise_attention(parse_graph(model(divided + R"(%m f32[1,2,3,3] = Add(%d, %added) @mask
%p f32[1,2,3,3] = Softmax(%m) {axis = 3} @softmax
)")));
  // What importing leaves of a large mask.
  const Graph compared =
      raise_attention(parse_graph(model(divided + R"(%c bool[3,3] = LessOrEqual(%row, %column) @compare
%m f32[1,2,3,3] = Where(%c, %d, %low) @mask
%p f32[1,2,3,3] = Softmax(%m) {axis = 3} @softmax
)")));
  for (const Graph* graph : {&where, &added, &compared}) {
    const Node* attention = attention_of(*graph);
    REQUIRE(attention != nullptr);
    CHECK(attention->attributes.number("scale") == 0.25);
    CHECK(attention->attributes.flag("is_causal"));
  }
}

TEST_CASE("raise_attention: a mask that is added becomes an operand, unless it is to be learned") {
  const std::string given = "input %mask f32[1,1,1,3]\n";
  const std::string learned = "parameter %mask f32[1,2,3,3] from \"bias\"\n";
  const auto masked = [](const std::string& mask, const std::string& sum, const std::string& end) {
    return raise_attention(parse_graph(model(mask + "%m f32[1,2,3,3] = Add(" + sum + R"() @mask
%p f32[1,2,3,3] = Softmax(%m) {axis = 3} @softmax
)",
                                             end)));
  };
  const std::string forward = "output z = %z\n";
  const std::string trained = "%l f32[] = ReduceSum(%z) {axes = [0, 1, 2, 3], keepdims = 0} @loss\nloss %l\n" + forward;
  for (const char* sum : {"%s, %mask", "%mask, %s"}) {
    for (const std::string& end : {forward, trained}) {
      const Graph graph = masked(given, sum, end);
      const Node* attention = attention_of(graph);
      REQUIRE(attention != nullptr);
      REQUIRE(attention->inputs.size() == 4);
      CHECK(graph.value(attention->inputs[3]).name == "mask");
      CHECK_FALSE(attention->attributes.flag("is_causal"));
      verify(graph);
    }
    // An offset of each head: attention has no gradient for it.
    CHECK(attention_of(masked(learned, sum, forward)) != nullptr);
    CHECK(attention_of(masked(learned, sum, trained)) == nullptr);
  }
}

TEST_CASE("raise_attention: what it cannot say is left as it is") {
  const auto is_left = [](const std::string& text) {
    return attention_of(raise_attention(parse_graph(text))) == nullptr;
  };
  // another mask
  CHECK(is_left(model(R"(%m f32[1,2,3,3] = Where(%other, %s, %low) @mask
%p f32[1,2,3,3] = Softmax(%m) {axis = 3} @softmax
)")));
  // masked scores that still count
  CHECK(is_left(model(R"(%m f32[1,2,3,3] = Where(%causal, %s, %half) @mask
%p f32[1,2,3,3] = Softmax(%m) {axis = 3} @softmax
)")));
  // over the queries
  CHECK(is_left(model("%p f32[1,2,3,3] = Softmax(%s) {axis = 2} @softmax\n")));
  // the probabilities or the scores are asked for
  CHECK(is_left(model(kSoftmax, "output z = %z\noutput p = %p\n")));
  CHECK(is_left(model(kSoftmax, "output z = %z\noutput s = %s\n")));
}

TEST_CASE(
    "raise_attention: trained in bf16 the op gives nearly the losses of f32, and k devices give the bits of one") {
  // With a mask that is added, in f32 as low as it can be: the last two keys are padding.
  for (const bool has_mask : {false, true}) {
    CAPTURE(has_mask);
    const auto graph_of = [&](int64_t) {
      const std::string scores = has_mask ? "%b f32[4,2,6,6] = Add(%c, %mask) @mask\n" : "";
      const std::string scaled = has_mask ? "%c" : "%b";
      return parse_graph(R"(graph "layer" canonical
constant %mask f32[1,1,1,6] = [0, 0, 0, 0, -3.4028234663852886e38, -3.4028234663852886e38]
input %x f32[4,6,8]
parameter %w f32[8,8] from "w"
constant %scale f32[] = 0.5
%h f32[4,6,8] = MatMul(%x, %w) @project
%r f32[4,6,2,4] = Reshape(%h) {allowzero = 0, shape = [4, 6, 2, 4]} @split
%q f32[4,2,6,4] = Transpose(%r) {perm = [0, 2, 1, 3]} @q
%k f32[4,2,4,6] = Transpose(%r) {perm = [0, 2, 3, 1]} @k
%a f32[4,2,6,6] = MatMul(%q, %k) @scores
)" + scaled + R"( f32[4,2,6,6] = Mul(%a, %scale) @scale
)" + scores + R"(%p f32[4,2,6,6] = Softmax(%b) {axis = 3} @softmax
%m f32[4,2,6,4] = MatMul(%p, %q) @mix
%t f32[4,6,2,4] = Transpose(%m) {perm = [0, 2, 1, 3]} @join
%y f32[4,6,8] = Reshape(%t) {allowzero = 0, shape = [4, 6, 8]} @merge
output y = %y
)");
    };
    const auto run = [&](Precision precision, int devices) {
      PlanOptions options;
      options.batch = 4;
      options.train = true;
      options.keep_outputs = true;
      options.loss = LossKind::mse;
      options.precision = precision;
      options.optimizer.optimizer = parse_optimizer("momentum,lr=0.05");
      const FrontGraphs graphs = make_front_graphs(graph_of, 4, options, "layer");
      CHECK(count(graphs.main, OpKind::ScaledDotProductAttention) == (precision == Precision::f32 ? 0 : 1));
      CHECK(count(graphs.main, OpKind::ScaledDotProductAttentionGrad) == (precision == Precision::f32 ? 0 : 1));
      if (devices > 1) options.assignment = test::random_assignment(graphs.main, devices, 1);
      test::RunOptions run_options;
      run_options.seed = 5;
      run_options.steps = 4;
      return test::run_plan(test::plan_on_cpus(graphs, devices, options), test::SeededWeights(5), run_options);
    };
    const test::Outcome exact = run(Precision::f32, 1);
    const test::Outcome one = run(Precision::bf16, 1);
    REQUIRE(one.losses.size() == exact.losses.size());
    // Operands and results of the products keep 8 bits, and losses are of squares.
    for (size_t i = 0; i < exact.losses.size(); ++i)
      CHECK(one.losses[i] == doctest::Approx(exact.losses[i]).epsilon(0.03));
    for (const int devices : {2, 3}) {
      const auto difference = test::find_difference(one, run(Precision::bf16, devices));
      CHECK_MESSAGE(!difference.has_value(), difference.value_or(""));
    }
  }
}
