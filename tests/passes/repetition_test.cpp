#include "passes/repetition.h"

#include <doctest/doctest.h>

#include <fmt/format.h>

#include "compiler/ir/parse.h"

using namespace mpc;

namespace {

/// `layers` residual layers of three nodes between a first and a last node of other kinds; `mask` is read by each.
std::string layered(int layers, int odd_one = -1) {
  std::string parameters;
  std::string body = "%mask f32[4,8] = Sigmoid(%x) @mask\n%h0 f32[4,8] = Tanh(%x) @first\n";
  for (int i = 0; i < layers; ++i) {
    parameters += fmt::format("parameter %w{0} f32[8,8] from \"w{0}\"\n", i);
    body += fmt::format("%a{0} f32[4,8] = MatMul(%h{0}, %w{0}) @product{0}\n", i);
    body += fmt::format("%b{0} f32[4,8] = {1}(%a{0}, %mask) @masked{0}\n", i, i == odd_one ? "Sub" : "Mul");
    body += fmt::format("%h{1} f32[4,8] = Add(%b{0}, %h{0}) @sum{0}\n", i, i + 1);
  }
  return "graph \"layered\" imported\ninput %x f32[4,8]\n" + parameters + body +
         fmt::format("%y f32[4,8] = Relu(%h{}) @last\noutput y = %y\n", layers);
}

}  // namespace

TEST_CASE("repetition: layers that read the same mask and weights of their own are one block many times") {
  const Graph graph = parse_graph(layered(6));
  const Repetition found = find_repetition(graph);
  CHECK(found.nodes == 3);
  CHECK(found.times == 6);
  CHECK(graph.node(found.first).name == "product0");
}

TEST_CASE("repetition: a layer with another operator ends it") {
  const Graph graph = parse_graph(layered(9, 3));
  const Repetition found = find_repetition(graph);
  CHECK(found.nodes == 3);
  CHECK(found.times == 5);  // five behind the odd layer, whose own sum is like theirs
  CHECK(graph.node(found.first).name == "sum3");
}

TEST_CASE("repetition: equal operators that read from other places are not repeated") {
  const Graph graph = parse_graph(
      "graph \"g\" imported\ninput %x f32[4,8]\n"
      "%p f32[4,8] = Relu(%x) @p\n%a f32[4,8] = Tanh(%p) @a\n%b f32[4,8] = Exp(%a) @b\n%c f32[4,8] = Tanh(%a) @c\n%d "
      "f32[4,8] = Exp(%c) @d\n"
      "output y = %d\noutput z = %b\n");
  // Two runs of Tanh and Exp, but the second Tanh reads what the first one made, not what is just before it.
  CHECK(find_repetition(graph).times == 0);
}
