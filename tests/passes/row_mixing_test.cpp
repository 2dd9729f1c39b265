// Which graphs give other results when their batch is divided into micro-batches.

#include <doctest/doctest.h>

#include <optional>
#include <string>

#include <fmt/format.h>

#include "compiler/ir/parse.h"
#include "passes/row_mixing.h"

namespace {

using namespace mpc;

/// The operator that mixes rows in a graph whose input %x has `B` rows of 8 numbers; "" where none does.
std::string mixer_of(const std::string& nodes, RowUse use = RowUse::inference) {
  const auto graph_of = [&](const std::string& rows) {
    std::string text = "graph \"g\" canonical\ninput %x f32[B,8]\nparameter %w f32[8,8] from \"w\"\n" + nodes;
    for (size_t at = text.find('B'); at != std::string::npos; at = text.find('B', at)) text.replace(at, 1, rows);
    return parse_graph(text);
  };
  const Graph two = graph_of("2");
  const std::optional<NodeId> mixer = node_across_rows(two, graph_of("6"), use);
  return mixer ? two.node(*mixer).name : "";
}

}  // namespace

TEST_CASE("row mixing: a model that takes rows one by one is divided freely") {
  CHECK(mixer_of("%h f32[B,8] = MatMul(%x, %w) @fc\n%y f32[B,8] = Softmax(%h) {axis = 1} @s\noutput y = %y\n").empty());
  // Heads and positions: the softmax is over the last of them.
  CHECK(mixer_of(
            "%h f32[B,2,2,2] = Reshape(%x) {shape = [B, 2, 2, 2]} @r\n%t f32[2,B,2,2] = Transpose(%h) {perm = [1, 0, "
            "2, 3]} @t\n%y f32[2,B,2,2] = Softmax(%t) {axis = 3} @s\noutput y = %y\n")
            .empty());
}

TEST_CASE("row mixing: a softmax over the rows is found, wherever they have gone") {
  CHECK(mixer_of("%y f32[B,8] = Softmax(%x) {axis = 0} @s\noutput y = %y\n") == "s");
  CHECK(mixer_of("%t f32[8,B] = Transpose(%x) {perm = [1, 0]} @t\n%y f32[8,B] = LogSoftmax(%t) {axis = 1} @s\noutput y "
                 "= %y\n") == "s");
}

TEST_CASE("row mixing: a mean over the rows is found where it meets rows again") {
  const std::string mean = "%m f32[1,8] = ReduceMean(%x) {axes = [0], keepdims = 1} @mean\n";
  CHECK(mixer_of(mean + "%y f32[B,8] = Sub(%x, %m) @sub\noutput y = %y\n") == "mean");
  CHECK(mixer_of(mean + "%n f32[1,8] = Neg(%m) @neg\n%y f32[B,8] = Sub(%x, %n) @sub\noutput y = %y\n",
                 RowUse::training) == "mean");
  // As an output it is that of a micro-batch; a loss is summed as it should be.
  CHECK(mixer_of(mean + "output y = %m\n") == "mean");
  CHECK(mixer_of(mean + "output y = %m\n", RowUse::training).empty());
}

TEST_CASE("row mixing: rows beside each other are found") {
  CHECK(mixer_of("%t f32[8,B] = Transpose(%x) {perm = [1, 0]} @t\n%y f32[B,B] = MatMul(%x, %t) @similar\noutput y = "
                 "%y\n") == "similar");
}
