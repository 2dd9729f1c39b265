#include "compiler/ir/rewriter.h"

#include <doctest/doctest.h>

#include "compiler/ir/parse.h"
#include "compiler/ir/verify.h"

namespace mpc {
namespace {

// The second forward node makes nothing that anyone needs, but a gradient node has it as its anchor.
constexpr std::string_view kStep = R"(graph g training
input %x f32[2]
%h f32[2] = Relu(%x) @first
%dead f32[2] = Neg(%h) @second
%y f32[2] = Neg(%h) @third
%g f32[2] = Mul(%h, %y) @gradient phase input_grad anchor @second
%s f32[2] = Neg(%g) @sum phase input_grad anchor @second
%alone f32[2] = Neg(%x) @alone phase input_grad anchor @second
output y = %y
output s = %s
output alone = %alone
)";

NodeId node_of(const Graph& graph, std::string_view name) {
  for (int i = 0; i < graph.node_count(); ++i) {
    if (graph.node(NodeId(i)).name == name) return NodeId(i);
  }
  FAIL("no node " << name);
  return {};
}

TEST_CASE("rewriter: a node whose anchor was dropped belongs to what makes its operands") {
  const Graph graph = parse_graph(kStep);
  REQUIRE_FALSE(find_violation(graph));
  const Graph live = remove_dead_nodes(graph);
  REQUIRE(live.node_count() == graph.node_count() - 1);
  const NodeId first = node_of(live, "first");
  CHECK(live.node(node_of(live, "gradient")).anchor == first);
  CHECK(live.node(node_of(live, "sum")).anchor == first);
  // Nothing but an input is read: there is no forward node to belong to.
  CHECK_FALSE(live.node(node_of(live, "alone")).anchor.is_valid());
}

TEST_CASE("rewriter: a node keeps its anchor where that was copied, under its new id") {
  Graph graph = parse_graph(kStep);
  graph.node(node_of(graph, "gradient")).anchor = node_of(graph, "third");
  const Graph live = remove_dead_nodes(graph);
  CHECK(live.node(node_of(live, "gradient")).anchor == node_of(live, "third"));
  CHECK(node_of(live, "third") != node_of(graph, "third"));
}

}  // namespace
}  // namespace mpc
