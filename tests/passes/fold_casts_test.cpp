// What normalizations take in of the Casts around them. That no bit changes is shown on the models of the zoo
// (tests/zoo/zoo_bits_test.cpp).

#include "passes/fold_casts.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "compiler/ir/parse.h"
#include "compiler/ir/verify.h"
#include "tests/support/ops_of.h"

namespace {

using namespace mpc;
using test::ops_of;

Graph folded(const std::string& body) {
  Graph graph = parse_graph(
      "graph \"g\" canonical\ninput %x f32[4,8]\ninput %g bf16[4,8]\nparameter %s f32[8] from \"s\"\nparameter %b "
      "f32[8] from \"b\"\n" +
      body);
  Graph result = fold_casts(graph);
  verify(result);
  return result;
}

using Ops = std::vector<OpKind>;

}  // namespace

TEST_CASE("fold_casts: a normalization writes 16 bits, alone where nobody reads f32, and else beside f32") {
  const std::string norm =
      "%n f32[4,8] = LayerNormalization(%x, %s, %b)\n%c bf16[4,8] = Cast(%n) {to = \"bf16\"}\noutput c = %c\n";
  const Graph alone = folded(norm);
  REQUIRE(ops_of(alone) == Ops{OpKind::LayerNormalization});
  const Node& node = alone.node(NodeId(0));
  CHECK(node.attributes.text("rounded") == "bf16");
  REQUIRE(node.outputs.size() == 4);
  CHECK(!node.outputs[0].is_valid());
  CHECK(alone.value(node.outputs[3]).dtype == DType::bf16);

  const Graph both = folded(norm + "output n = %n\n");
  REQUIRE(ops_of(both) == Ops{OpKind::LayerNormalization});
  CHECK(both.node(NodeId(0)).outputs[0].is_valid());
}

TEST_CASE("fold_casts: a Cast with other work before it stays: its result would be held for longer") {
  CHECK(ops_of(folded("%n f32[4,8] = RMSNormalization(%x, %s)\n%e f32[4,8] = Exp(%x)\n%c bf16[4,8] = Cast(%n) {to = "
                      "\"bf16\"}\noutput c = %c\noutput e = %e\n")) ==
        Ops{OpKind::RMSNormalization, OpKind::Exp, OpKind::Cast});
}

TEST_CASE("fold_casts: gradients of a normalization read dy in 16 bits, if nothing else reads it in f32") {
  const std::string gradients =
      "%d f32[4,8] = Cast(%g) {to = \"f32\"}\n"
      "%w f32[8], %v f32[8] = LayerNormalizationWeightGrad(%d, %x)\n"
      "%y f32[4,8] = LayerNormalizationGrad(%d, %x, %s)\n"
      "output w = %w\noutput v = %v\noutput y = %y\n";
  const Graph narrow = folded(gradients);
  REQUIRE(ops_of(narrow) == Ops{OpKind::LayerNormalizationWeightGrad, OpKind::LayerNormalizationGrad});
  CHECK(narrow.value(narrow.node(NodeId(0)).inputs[0]).dtype == DType::bf16);
  CHECK(narrow.value(narrow.node(NodeId(1)).inputs[0]).dtype == DType::bf16);
  // Sums stay in f32.
  CHECK(narrow.value(narrow.node(NodeId(0)).outputs[0]).dtype == DType::f32);
  CHECK(ops_of(folded(gradients + "output d = %d\n")).front() == OpKind::Cast);
}
