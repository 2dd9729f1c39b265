// Nodes of a device that become one: the weights of packed projections, and their gradients. That no bit changes is
// shown on the models of the zoo (tests/zoo/zoo_bits_test.cpp).

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "compiler/ir/parse.h"
#include "compiler/ir/verify.h"
#include "passes/batch_casts.h"
#include "passes/batch_splits.h"
#include "tests/support/ops_of.h"

namespace {

using namespace mpc;
using test::ops_of;

using Ops = std::vector<OpKind>;
using Dims = std::vector<int64_t>;

}  // namespace

TEST_CASE("batch_casts: weights that are put side by side are rounded to their places by the one Cast") {
  const Graph graph = batch_casts(parse_graph(R"(graph "g" canonical
input %x bf16[4,8]
parameter %u f32[8,2] from "u"
parameter %v f32[8,6] from "v"
parameter %w f32[8,8] from "w"
%uv f32[8,8] = Concat(%u, %v) {axis = 1} per_step
%uvl bf16[8,8] = Cast(%uv) {to = "bf16"} per_step
%wl bf16[8,8] = Cast(%w) {to = "bf16"} per_step
%y bf16[4,8] = MatMul(%x, %uvl)
%z bf16[4,8] = MatMul(%y, %wl)
output z = %z
)"));
  verify(graph);
  REQUIRE(ops_of(graph) == Ops{OpKind::Cast, OpKind::MatMul, OpKind::MatMul});
  const Node& cast = graph.node(NodeId(0));
  CHECK(cast.attributes.integers("joined") == Dims{2, 1});
  CHECK(cast.inputs.size() == 3);
  CHECK(graph.value(cast.outputs[0]).shape == Shape{8, 8});
}

TEST_CASE("batch_casts: a Concat along another axis, or that others read, stays") {
  const std::string head = R"(graph "g" canonical
input %x bf16[4,8]
parameter %u f32[2,8] from "u"
parameter %v f32[6,8] from "v"
)";
  const std::string tail =
      "%uvl bf16[8,8] = Cast(%uv) {to = \"bf16\"} per_step\n%y bf16[4,8] = MatMul(%x, %uvl)\noutput y = %y\n";
  const Ops stays = {OpKind::Concat, OpKind::Cast, OpKind::MatMul};
  CHECK(ops_of(batch_casts(parse_graph(head + "%uv f32[8,8] = Concat(%u, %v) {axis = 0} per_step\n" + tail))) == stays);
}

TEST_CASE("batch_splits: gradients of packed weights are parted by one node for each rank") {
  const Graph graph = batch_splits(parse_graph(R"(graph "g" training
input %x f32[2]
%y f32[2] = Neg(%x) @forward
state %m f32[4,6] = splat 0
state %n f32[2,4] = splat 0
state %o f32[5] = splat 0
%a f32[4,2], %b f32[4,4] = Split(%m) {axis = 1, split = [2, 4]} @s phase weight_grad per_step anchor @forward
%c f32[2], %d f32[3] = Split(%o) {axis = 0, split = [2, 3]} @t phase weight_grad per_step anchor @forward
%e f32[2,1], %f f32[2,3] = Split(%n) {axis = 1, split = [1, 3]} @u phase weight_grad per_step anchor @forward
output y = %y
output a = %a
output b = %b
output c = %c
output d = %d
output e = %e
output f = %f
)"));
  verify(graph);
  REQUIRE(ops_of(graph) == Ops{OpKind::Neg, OpKind::Split, OpKind::Split});
  const Node& joint = graph.node(NodeId(2));
  CHECK(joint.attributes.integers("parts") == Dims{2, 2});
  CHECK(joint.attributes.integers("split") == Dims{2, 4, 1, 3});
  CHECK(graph.value(joint.outputs[3]).shape == Shape{2, 3});
}
