// What products take in: additions and functions of their results, transposed operands and results.

#include "passes/fuse_products.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "compiler/ir/parse.h"
#include "compiler/ir/print.h"
#include "compiler/ir/verify.h"
#include "passes/fold_transposes.h"
#include "passes/fuse_bias_gradients.h"
#include "tests/support/ops_of.h"

namespace {

using namespace mpc;
using test::ops_of;

Graph parsed(const std::string& body) {
  return parse_graph(
      "graph \"g\" canonical\ninput %x f32[4,8]\ninput %z f32[4,16]\nparameter %w f32[8,16] from \"w\"\nparameter %b "
      "f32[16] from \"b\"\n" +
      body);
}

Graph fused(const std::string& body, const FusionLimits& limits = {}) {
  const Graph graph = parsed(body);
  Graph result = std::move(fuse_products({&graph}, limits).front());
  verify(result);
  return result;
}

Graph folded(const std::string& body, const FusionLimits& limits = {}) {
  const Graph graph = parsed(body);
  Graph result = std::move(fold_transposes({&graph}, limits).front());
  verify(result);
  return result;
}

std::vector<std::string> operands_of(const Graph& graph, const Node& node) {
  std::vector<std::string> names;
  for (const ValueId input : node.inputs) names.push_back(input.is_valid() ? graph.value(input).name : "");
  return names;
}

bool is_set(const Node& node, const std::string& name) {
  return node.attributes.has(name) && node.attributes.flag(name);
}

using Names = std::vector<std::string>;
using Ops = std::vector<OpKind>;

}  // namespace

TEST_CASE("fuse_products: a bias, a residual and a function become part of the product") {
  const Graph graph = fused(R"ir(%m f32[4,16] = MatMul(%x, %w) @m
%a f32[4,16] = Add(%b, %m) @a
%r f32[4,16] = Add(%a, %z) @r
%y f32[4,16] = Gelu(%r) {approximate = "tanh"} @y origin "y (Gelu)"
output y = %y
)ir");
  REQUIRE(graph.node_count() == 1);
  const Node& node = graph.node(NodeId(0));
  CHECK(node.op == OpKind::MatMul);
  CHECK(node.name == "y");
  CHECK(node.origin == "y (Gelu)");
  CHECK(operands_of(graph, node) == Names{"x", "w", "b", "z"});
  CHECK(node.attributes.text("activation") == "Gelu");
  CHECK(node.attributes.texts("origins").size() == 4);
  CHECK(graph.outputs[0].value == node.outputs[0]);
}

TEST_CASE("fuse_products: a Gemm with a C takes in one tensor more, and Relu") {
  const Graph graph =
      fused("%m f32[4,16] = Gemm(%x, %w, %b)\n%a f32[4,16] = Add(%z, %m)\n%y f32[4,16] = Relu(%a)\noutput y = %y\n");
  REQUIRE(graph.node_count() == 1);
  CHECK(operands_of(graph, graph.node(NodeId(0))) == Names{"x", "w", "b", "z"});
  CHECK(graph.node(NodeId(0)).attributes.text("activation") == "Relu");
}

TEST_CASE("fuse_products: what libraries do not do, and what others read, stays") {
  // the exact Gelu; a second residual; a row after it; a column
  CHECK(fused("%m f32[4,16] = MatMul(%x, %w)\n%y f32[4,16] = Gelu(%m) {approximate = \"none\"}\noutput y = %y\n")
            .node_count() == 2);
  CHECK(fused("%m f32[4,16] = MatMul(%x, %w)\n%a f32[4,16] = Add(%m, %z)\n%y f32[4,16] = Add(%a, %z)\noutput y = "
              "%y\n")
            .node_count() == 2);
  CHECK(fused("input %c f32[4,1]\n%m f32[4,16] = MatMul(%x, %w)\n%y f32[4,16] = Add(%m, %c)\noutput y = %y\n")
            .node_count() == 2);
  CHECK(
      fused("%m f32[4,16] = MatMul(%x, %w)\n%y f32[4,16] = Add(%m, %b)\noutput y = %y\noutput m = %m\n").node_count() ==
      2);
  CHECK(fused("%m f32[4,16] = MatMul(%x, %w)\n%y f32[4,16] = Add(%m, %b)\n%t f32[4,16] = Tanh(%m)\noutput y = "
              "%y\noutput t = %t\n")
            .node_count() == 3);
}

TEST_CASE("fuse_products: a Reshape between is passed by, and the residual is reshaped") {
  const Graph graph = fused(R"ir(input %r f32[2,2,16]
%m f32[4,16] = Gemm(%x, %w) @m
%s f32[2,2,16] = Reshape(%m) {shape = [2, 2, 16]} @s
%y f32[2,2,16] = Add(%s, %r) @y
output y = %y
)ir");
  CHECK(ops_of(graph) == Ops{OpKind::Reshape, OpKind::Gemm, OpKind::Reshape});
  CHECK(graph.node(NodeId(1)).name == "y");
  CHECK(graph.value(graph.outputs[0].value).name == "y");
}

TEST_CASE("fuse_products: of two products that are added up the later one is never stored") {
  const Graph graph = fused(
      "%m f32[4,16] = MatMul(%x, %w)\n%n f32[4,16] = MatMul(%x, %w)\n%y f32[4,16] = Add(%m, %n)\noutput y = %y\n");
  REQUIRE(graph.node_count() == 2);
  CHECK(operands_of(graph, graph.node(NodeId(1))) == Names{"x", "w", "", "m"});
}

TEST_CASE("fuse_products: operands do not wait for an addition when they are larger than the result") {
  const std::string other = "%t f32[4,16] = Tanh(%z)\n";
  const std::string body = "%m f32[4,16] = MatMul(%v, %u)\n" + other + "%y f32[4,16] = Add(%m, %t)\noutput y = %y\n";
  // 4 x 32 against 4 x 16; as large as the result, it may wait
  CHECK(fused("input %v f32[4,32]\nparameter %u f32[32,16] from \"u\"\n" + body).node_count() == 3);
  CHECK(fused("input %v f32[4,16]\nparameter %u f32[16,16] from \"u\"\n" + body).node_count() == 2);
}

TEST_CASE("fuse_products: the first reader of a parameter stays its first reader") {
  // %w lives where %m runs; behind %n, the product would no longer be the first. So it stands where it stood, or where
  // what is added is made too late for that, alone.
  const std::string product = "%m f32[4,16] = MatMul(%x, %w)\n%n f32[8,16] = Tanh(%w)\n";
  const std::string outputs = "output y = %y\noutput n = %n\n";
  CHECK(ops_of(fused(product + "%y f32[4,16] = Add(%m, %b)\n" + outputs)) == Ops{OpKind::MatMul, OpKind::Tanh});
  CHECK(ops_of(fused(product + "%t f32[4,16] = Tanh(%z)\n%y f32[4,16] = Add(%m, %t)\n" + outputs)) ==
        Ops{OpKind::MatMul, OpKind::Tanh, OpKind::Tanh, OpKind::Add});
}

TEST_CASE("fuse_products: a product whose operands cannot wait adds what is there before it, also in f32") {
  const std::string body = R"ir(input %g bf16[4,32]
parameter %v bf16[32,16] from "v"
%m bf16[4,16] = MatMul(%g, %v)
%t f32[4,16] = Tanh(%z)
%c f32[4,16] = Cast(%m) {to = "f32"}
)ir";
  const Graph graph = fused(body + "%y f32[4,16] = Add(%z, %c)\noutput y = %y\noutput t = %t\n");
  REQUIRE(ops_of(graph) == Ops{OpKind::MatMul, OpKind::Tanh});
  CHECK(operands_of(graph, graph.node(NodeId(0))) == Names{"g", "v", "", "z"});
  CHECK(ops_of(fused(body + "%y f32[4,16] = Add(%t, %c)\noutput y = %y\n")) ==
        Ops{OpKind::MatMul, OpKind::Tanh, OpKind::Cast, OpKind::Add});
}

TEST_CASE("fuse_products: pins that send nodes apart keep them apart") {
  const std::string body =
      "%m f32[4,16] = MatMul(%x, %w) @front/m\n%y f32[4,16] = Add(%m, %b) @back/y\noutput y = %y\n";
  CHECK(fused(body).node_count() == 1);
  CHECK(fused(body, {{{"front/", 0}, {"back/", 1}}, {}}).node_count() == 2);
  CHECK(fused(body, {{}, {{"front/m", 0}, {"back/y", 1}}}).node_count() == 2);
}

TEST_CASE("fuse_products: a product of 16 bits takes in a sum in f32, and reads its row in f32") {
  const std::string product = R"ir(input %h bf16[4,8]
parameter %v bf16[8,16] from "v"
%r bf16[16] = Cast(%b) {to = "bf16"}
%m bf16[4,16] = MatMul(%h, %v)
%a bf16[4,16] = Add(%m, %r)
)ir";
  const Graph graph =
      fused(product + "%c f32[4,16] = Cast(%a) {to = \"f32\"}\n%y f32[4,16] = Add(%c, %z)\noutput y = %y\n");
  REQUIRE(ops_of(graph) == Ops{OpKind::MatMul});
  const Node& node = graph.node(NodeId(0));
  CHECK(operands_of(graph, node) == Names{"h", "v", "b", "z"});
  CHECK(node.attributes.text("sum_to") == "f32");
  // What follows the sum reads f32, which no library does in the same kernel.
  CHECK(ops_of(fused(product + "%c f32[4,16] = Cast(%a) {to = \"f32\"}\n%s f32[4,16] = Add(%c, %z)\n"
                               "%y f32[4,16] = Relu(%s)\noutput y = %y\n")) == Ops{OpKind::MatMul, OpKind::Relu});
  // Alone the Cast stays, and where others read its result.
  CHECK(ops_of(fused(product + "%c f32[4,16] = Cast(%a) {to = \"f32\"}\noutput c = %c\n")) ==
        Ops{OpKind::Cast, OpKind::MatMul, OpKind::Cast});
  CHECK(ops_of(fused(product + "%c f32[4,16] = Cast(%a) {to = \"f32\"}\n%y f32[4,16] = Add(%c, %z)\noutput c = "
                               "%c\noutput y = %y\n")) == Ops{OpKind::Cast, OpKind::MatMul, OpKind::Cast, OpKind::Add});
}

TEST_CASE("fuse_products: the gradient beside a normalization is added to the normalization's") {
  const Graph graph = fused(R"ir(parameter %s f32[16] from "s"
input %g f32[4,16]
%d f32[4,16] = LayerNormalizationGrad(%g, %z, %s)
%y f32[4,16] = Add(%g, %d)
output y = %y
)ir");
  REQUIRE(graph.node_count() == 1);
  CHECK(operands_of(graph, graph.node(NodeId(0))) == Names{"g", "z", "s", "g"});
}

TEST_CASE("fuse_products: the gradient of what Gelu by tanh gave takes in Gelu's") {
  const std::string product = R"ir(input %g f32[4,8]
input %u f32[2,2,16]
%d f32[4,16] = Gemm(%g, %w)
%r f32[2,2,16] = Reshape(%d) {shape = [2, 2, 16]}
)ir";
  const auto after = [&](const std::string& approximate, const std::string& more) {
    return fused(product + "%y f32[2,2,16] = UnaryGrad(%r, %u, _) {function = \"Gelu\", approximate = \"" +
                 approximate + "\"} @y\n" + more + "output y = %y\n");
  };
  const Graph graph = after("tanh", "");
  REQUIRE(ops_of(graph) == Ops{OpKind::Reshape, OpKind::Gemm, OpKind::Reshape});
  const Node& node = graph.node(NodeId(1));
  CHECK(operands_of(graph, node) == Names{"g", "w", "", "y/whole"});
  CHECK(node.attributes.text("activation") == "GeluGrad");
  // The exact Gelu is in no library, and a product that others read is stored.
  CHECK(ops_of(after("none", "")) == Ops{OpKind::Gemm, OpKind::Reshape, OpKind::UnaryGrad});
  CHECK(ops_of(after("tanh", "output d = %d\n")) == Ops{OpKind::Gemm, OpKind::Reshape, OpKind::UnaryGrad});
}

TEST_CASE("fold_transposes: a product reads a transposed operand where it lies") {
  const Graph graph = folded(R"ir(input %q f32[2,4,8]
input %k f32[2,6,8]
%t f32[2,8,6] = Transpose(%k) {perm = [0, 2, 1]} @t
%y f32[2,4,6] = MatMul(%q, %t) @y
output y = %y
)ir");
  REQUIRE(graph.node_count() == 1);
  const Node& node = graph.node(NodeId(0));
  CHECK(node.name == "y");
  CHECK(operands_of(graph, node) == Names{"q", "k"});
  CHECK(is_set(node, "transB"));
  CHECK(!node.attributes.has("transA"));
}

TEST_CASE("fold_transposes: a transposed product is the product in the other order") {
  const Graph graph =
      folded("%m f32[4,16] = Gemm(%x, %w)\n%y f32[16,4] = Transpose(%m) {perm = [1, 0]} @y\noutput y = %y\n");
  REQUIRE(graph.node_count() == 1);
  const Node& node = graph.node(NodeId(0));
  CHECK(operands_of(graph, node) == Names{"w", "x"});
  CHECK(is_set(node, "transA"));
  CHECK(is_set(node, "transB"));
  CHECK(node.name == "y");
}

TEST_CASE("fold_transposes: a Transpose that somebody else reads, of other dimensions, or elsewhere stays") {
  const std::string transposed = "%t f32[8,4] = Transpose(%x) {perm = [1, 0]} @front/t\n";
  const std::string product = "%y f32[8,16] = MatMul(%t, %z) @back/y\noutput y = %y\n";
  CHECK(folded(transposed + product).node_count() == 1);
  CHECK(folded(transposed + product + "output t = %t\n").node_count() == 2);
  CHECK(folded(transposed + product + "%o f32[8,4] = Tanh(%t)\noutput o = %o\n").node_count() == 3);
  CHECK(folded(transposed + product, {{{"front/", 0}, {"back/", 1}}, {}}).node_count() == 2);
  CHECK(folded("input %q f32[2,4,8]\n%t f32[4,2,8] = Transpose(%q) {perm = [1, 0, 2]}\n%y f32[4,2,16] = MatMul(%t, "
               "%w)\noutput y = %y\n")
            .node_count() == 2);
}

TEST_CASE("fuse_bias_gradients: the sums of a bias come with the weight's product, where nobody needs them earlier") {
  // %d is the gradient of %f = MatMul(%x, %w); 2 x 2 rows of 16.
  const auto after = [](const std::string& between, const std::string& anchor) {
    const Graph graph =
        parsed(R"ir(input %d f32[2,2,16]
%f f32[4,16] = MatMul(%x, %w) @f
%o f32[4,16] = Tanh(%f) @o
%s f32[1,1,16] = ReduceSum(%d) {axes = [0, 1], keepdims = 1} @s phase weight_grad anchor @)ir" +
               anchor + "\n%r f32[16] = Reshape(%s) {shape = [16]} @r phase weight_grad anchor @f\n" + between +
               R"ir(%q f32[4,16] = Reshape(%d) {shape = [4, 16]} @q phase weight_grad anchor @f
%g f32[8,16] = Gemm(%x, %q) {transA = 1} @g phase weight_grad anchor @f
output o = %o
output g = %g
output r = %r
)ir");
    return std::move(fuse_bias_gradients({&graph}).front());
  };
  const Graph graph = after("", "f");
  CHECK(ops_of(graph) ==
        Ops{OpKind::MatMul, OpKind::Tanh, OpKind::Reshape, OpKind::Gemm, OpKind::Reshape, OpKind::Reshape});
  const Node& node = graph.node(NodeId(3));
  REQUIRE(node.outputs.size() == 2);
  CHECK(graph.outputs[1].value == node.outputs[0]);
  CHECK(graph.value(graph.outputs[2].value).name == "r");
  // of another forward node; read before the product is made
  CHECK(after("", "o").node_count() == 6);
  CHECK(after("%u f32[16] = Tanh(%r) @u phase weight_grad anchor @f\n", "f").node_count() == 7);
}
