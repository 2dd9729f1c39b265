// Three projections to one attention become one product: which, and that no training step notices but by rounding.

#include "passes/pack_projections.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "compiler/ir/parse.h"
#include "compiler/ir/verify.h"
#include "tests/support/ops_of.h"

namespace {

using namespace mpc;
using test::ops_of;

/// Two heads of width 4 over 3 positions. `last` makes %vr (1, 3, 2, 4).
std::string model(const std::string& last) {
  return R"(graph "attention" canonical
input %x f32[1,3,8]
input %z f32[1,3,8]
parameter %wq f32[8,8] from "wq"
parameter %wk f32[8,8] from "wk"
parameter %wv f32[8,8] from "wv"
parameter %bq f32[8] from "bq"
parameter %bk f32[8] from "bk"
parameter %bv f32[8] from "bv"
%q f32[1,3,8] = MatMul(%x, %wq) @q/product
%qs f32[1,3,8] = Add(%q, %bq) @q/sum
%qr f32[1,3,2,4] = Reshape(%qs) {shape = [1, 3, 2, 4]} @q/heads
%k f32[1,3,8] = MatMul(%x, %wk) @k/product
%ks f32[1,3,8] = Add(%bk, %k) @k/sum
%kr f32[1,3,2,4] = Reshape(%ks) {shape = [1, 3, 2, 4]} @k/heads
)" + last +
         R"(%vr f32[1,3,2,4] = Reshape(%vs) {shape = [1, 3, 2, 4]} @v/heads
%y f32[1,3,2,4] = ScaledDotProductAttention(%qr, %kr, %vr) @attention
output y = %y
)";
}

const std::string kPlain = "%v f32[1,3,8] = MatMul(%x, %wv) @v/product\n%vs f32[1,3,8] = Add(%v, %bv) @v/sum\n";

Graph packed(const std::string& last, const FusionLimits& limits = {}) {
  Graph graph = pack_projections(parse_graph(model(last)), limits);
  verify(graph);
  return graph;
}

int products_of(const Graph& graph) {
  return static_cast<int>(std::ranges::count(ops_of(graph), OpKind::MatMul));
}

}  // namespace

TEST_CASE("pack_projections: q, k and v of one tensor are one product by the weights side by side") {
  const Graph graph = packed(kPlain);
  REQUIRE(ops_of(graph) == std::vector<OpKind>{OpKind::Concat, OpKind::MatMul, OpKind::Concat, OpKind::Add,
                                               OpKind::Reshape, OpKind::ScaledDotProductAttention});
  const Node& weights = graph.node(NodeId(0));
  const std::vector<std::string> expected = {"wq", "wk", "wv"};
  for (size_t i = 0; i < expected.size(); ++i) CHECK(graph.value(weights.inputs[i]).name == expected[i]);
  CHECK(weights.rate == Rate::per_step);
  const Node& product = graph.node(NodeId(1));
  CHECK(product.name == "v/product");  // of the last one
  CHECK(product.attributes.texts("origins").size() == 3);
  CHECK(graph.value(graph.node(NodeId(4)).outputs[0]).shape == Shape{1, 3, 3, 2, 4});
}

TEST_CASE("pack_projections: projections of other tensors, with rows or without, and results that are read stay") {
  CHECK(products_of(packed("%v f32[1,3,8] = MatMul(%z, %wv) @v/product\n%vs f32[1,3,8] = Add(%v, %bv) @v/sum\n")) == 3);
  CHECK(products_of(packed("%vs f32[1,3,8] = MatMul(%x, %wv) @v/product\n")) == 3);
  CHECK(products_of(packed(kPlain + "output v = %v\n")) == 3);
  CHECK(products_of(packed("%v f32[1,3,8] = MatMul(%x, %wv) @v/product\n%vs f32[1,3,8] = Add(%v, %z) @v/sum\n")) == 3);
}

TEST_CASE("pack_projections: pins and assignments that send projections apart keep them apart") {
  CHECK(products_of(packed(kPlain, {{{"^q/", 0}, {"^v/", 1}}, {}})) == 3);
  CHECK(products_of(packed(kPlain, {{{"^[qkv]/", 0}}, {}})) == 1);
  CHECK(products_of(packed(kPlain, {{}, {{"q/product", 0}, {"v/product", 1}}})) == 3);
}
