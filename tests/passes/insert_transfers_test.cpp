#include "passes/insert_transfers.h"

#include <doctest/doctest.h>

#include <string>

#include "compiler/ir/graph.h"
#include "compiler/ir/parse.h"
#include "passes/canonicalize.h"

namespace {

using namespace mpc;

/// Two values of 32 KiB per row go from device 0 to device 1.
Graph two_values(int rows) {
  const std::string type = "f32[" + std::to_string(rows) + ",8192]";
  return parse_graph("graph g placed\ninput %x " + type + "\n%a " + type + " = Relu(%x) @a device 0\n%b " + type +
                     " = Tanh(%x) @b device 0\n%y " + type + " = Add(%a, %b) @y device 1\noutput y = %y\n");
}

int count_transfers(const Graph& graph) {
  int count = 0;
  for (const Node& node : graph.nodes()) count += node.op == OpKind::Transfer ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("insert_transfers: values that are small in the last micro-batch only travel as in the others") {
  const Graph others = two_values(2);  // 64 KiB each: not small, they travel alone
  const Graph last = two_values(1);    // 32 KiB each: by their own size they would travel together
  CHECK(count_transfers(insert_transfers(others)) == 2);
  CHECK(count_transfers(insert_transfers(last)) == 1);
  CHECK(count_transfers(insert_transfers(last, others)) == 2);
  CHECK(have_same_structure(insert_transfers(others), insert_transfers(last, others)));
}
