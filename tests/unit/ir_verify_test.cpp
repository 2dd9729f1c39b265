#include "compiler/ir/verify.h"

#include <doctest/doctest.h>

#include "compiler/base/file.h"
#include "compiler/ir/parse.h"
#include "tests/unit/helpers.h"

namespace mpc {
namespace {

// One micro-batch of a linear layer with SGD, placed on two devices.
constexpr std::string_view kStep = R"(graph g local
input %x f32[4,3]
parameter %w f32[3,2] from "w"
state %acc f32[3,2] = splat 0
state %mean f32[2] = splat 0
constant %c f32[] = 1
input %rate f32[] per_step
%y f32[4,2] = MatMul(%x, %w) @fc device 0
%y.1 f32[4,2] = Transfer(%y) @send device 1
%l f32[] = ReduceSum(%y.1) @loss device 1
%gy f32[4,2] = Mul(%y.1, %c) @gy phase input_grad anchor @loss device 1
%gy.0 f32[4,2] = Transfer(%gy) @back phase input_grad device 0
%gw f32[3,2] = MatMul(%x, %gy.0) @gw phase weight_grad anchor @fc device 0
%acc.1 f32[3,2] per_step = GradAccumulate(%gw, %acc) @sum phase weight_grad anchor @fc device 0
%w.1 f32[3,2] = SgdUpdate(%w, %acc.1, %rate) @sgd phase update per_step anchor @fc device 0
output y = %y.1
loss %l
gradient %w -> %acc.1
update %w -> %w.1
)";

std::string violation(const Graph& graph) {
  return find_violation(graph).value_or("none");
}

// The step with `from` replaced by `to`, which must occur.
std::string changed(std::string_view from, std::string_view to) {
  std::string text(kStep);
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return violation(parse_graph(text.replace(at, from.size(), to)));
}

template <class Change>
std::string broken(Change change) {
  Graph graph = parse_graph(kStep);
  change(graph);
  return violation(graph);
}

ValueId value_of(const Graph& graph, std::string_view name) {
  for (int i = 0; i < graph.value_count(); ++i) {
    if (graph.value(ValueId(i)).name == name) return ValueId(i);
  }
  FAIL("no value " << name);
  return {};
}

TEST_CASE("verify: a whole training step is fine, and an empty graph is") {
  CHECK(violation(parse_graph(kStep)) == "none");
  CHECK(violation(Graph()) == "none");
  CHECK_NOTHROW(verify(parse_graph(kStep)));
}

TEST_CASE("verify: the example of docs/ir.md is read and keeps the rules") {
  const std::string page = read_text_file(MPC_SOURCE_DIR "/docs/ir.md", 1 << 20);
  const size_t begin = page.find("```\ngraph");
  REQUIRE(begin != std::string::npos);
  const size_t end = page.find("```", begin + 3);
  CHECK(violation(parse_graph(page.substr(begin + 4, end - begin - 4))) == "none");
}

TEST_CASE("verify: a broken rule is an internal error that names it") {
  Graph graph = parse_graph(kStep);
  graph.node(NodeId(0)).device = DeviceId();
  const auto error = test::error_of([&] { verify(graph); });
  REQUIRE(error);
  CHECK(error->id() == ErrorId::M700);
  CHECK(error->what_happened().find(
            "the local graph 'g' is wrong: node \"fc\" (MatMul) has no device in a graph that is local") !=
        std::string::npos);
}

TEST_CASE("verify: ids are in range, ascend along edges and agree") {
  CHECK(broken([](Graph& g) { g.node(NodeId(0)).inputs[0] = ValueId(999); }) ==
        "node \"fc\" (MatMul) reads value number 999, which does not exist");
  CHECK(broken([](Graph& g) { g.node(NodeId(0)).outputs[0] = ValueId(999); }) ==
        "node \"fc\" (MatMul) makes value number 999, which does not exist");
  CHECK(broken([](Graph& g) { g.node(NodeId(0)).inputs[0] = value_of(g, "l"); }) ==
        "node \"fc\" (MatMul) reads value \"l\" before it is made");
  CHECK(broken([](Graph& g) { g.node(NodeId(0)).inputs[0] = value_of(g, "y"); }) ==
        "node \"fc\" (MatMul) reads value \"y\" before it is made");
  CHECK(broken([](Graph& g) {
          g.value(value_of(g, "y")).producer = NodeId(1);
        }).find("value \"y\" names output 0 of node \"send\"") == 0);
  CHECK(broken([](Graph& g) { g.value(value_of(g, "y")).producer = NodeId(); }) == "value \"y\" has no producer");
  CHECK(broken([](Graph& g) { g.value(value_of(g, "y")).output_index = 5; }).find("value \"y\" names output 5") == 0);
  CHECK(broken([](Graph& g) { g.value(value_of(g, "x")).producer = NodeId(0); }) ==
        "value \"x\" is of kind input and names a producer");
  CHECK(broken([](Graph& g) { g.node(NodeId(2)).outputs.push_back(value_of(g, "y")); }) ==
        "output 1 of node \"loss\" (ReduceSum) is value \"y\", which another producer makes");
  CHECK(broken([](Graph& g) { g.loss = ValueId(999); }) == "the loss does not exist");
  CHECK(broken([](Graph& g) { g.outputs[0].value = ValueId(); }) == "the output \"y\" has no value");
  CHECK(broken([](Graph& g) { g.updates[0].next = ValueId(999); }) == "an update names a value that does not exist");
  CHECK(broken([](Graph& g) { g.gradients[0].gradient = ValueId(999); }) ==
        "a gradient names a value that does not exist");
}

TEST_CASE("verify: names are there and unique") {
  CHECK(broken([](Graph& g) { g.value(ValueId(0)).name = "w"; }) == "two values have the name \"w\"");
  CHECK(broken([](Graph& g) { g.value(ValueId(0)).name = ""; }) == "a value has no name");
  CHECK(broken([](Graph& g) { g.node(NodeId(0)).name = "loss"; }) == "two nodes have the name \"loss\"");
  CHECK(broken([](Graph& g) { g.outputs.push_back(g.outputs[0]); }) == "two outputs have the name \"y\"");
}

TEST_CASE("verify: inputs stand once in the list, contents fit their type") {
  CHECK(broken([](Graph& g) { g.inputs.pop_back(); }) == "value \"rate\" stands 0 times among the inputs");
  CHECK(broken([](Graph& g) { g.inputs.push_back(g.inputs[0]); }) == "value \"x\" stands 2 times among the inputs");
  CHECK(broken([](Graph& g) { g.inputs.push_back(value_of(g, "w")); }) ==
        "value \"w\" is an input of the graph, but of another kind");
  CHECK(broken([](Graph& g) { g.inputs.push_back(ValueId()); }) == "an input of the graph does not exist");
  CHECK(broken([](Graph& g) { g.value(value_of(g, "c")).literal = Literal(); }) ==
        "the content of value \"c\" is not of type f32[]");
  CHECK(broken([](Graph& g) {
          g.value(value_of(g, "acc")).shape = Shape{2, 3};
        }) == "the content of value \"acc\" is not of type f32[2,3]");
  CHECK(broken([](Graph& g) { g.value(value_of(g, "y")).source = "w"; }) ==
        "value \"y\" is no parameter, yet trainable or from an initializer");
  CHECK(broken([](Graph& g) { g.value(value_of(g, "w")).dtype = DType::i32; }) ==
        "value \"w\" is trainable and of type i32");
  CHECK(broken([](Graph& g) { g.value(value_of(g, "w")).rate = Rate::per_microbatch; }) ==
        "value \"w\" is of kind parameter and not per step");
}

TEST_CASE("verify: what runs once per step reads nothing that changes per micro-batch") {
  CHECK(changed("input %rate f32[] per_step", "input %rate f32[]") ==
        "node \"sgd\" (SgdUpdate) runs once per step and reads value \"rate\", which changes per micro-batch");
  CHECK(changed("%gw f32[3,2] =", "%gw f32[3,2] per_step =") ==
        "value \"gw\" has another rate than node \"gw\" (MatMul) gives it");
  CHECK(changed("%acc.1 f32[3,2] per_step =", "%acc.1 f32[3,2] per_microbatch =").find("another rate") ==
        std::string::npos);
}

TEST_CASE("verify: no one reads a value after it was written over") {
  CHECK(changed("update %w -> %w.1\n",
                "update %w -> %w.1\n%late f32[4,2] = MatMul(%x, %w) @late phase update device 0\n") ==
        "node \"late\" (MatMul) reads value \"w\", over which node \"sgd\" (SgdUpdate) has written");
  CHECK(changed("SgdUpdate(%w, %acc.1, %rate)", "SgdUpdate(%w, %w, %rate)") ==
        "node \"sgd\" (SgdUpdate) reads value \"w\", over which node \"sgd\" (SgdUpdate) has written");
  CHECK(
      changed(
          "update %w -> %w.1\n",
          "update %w -> %w.1\n%w.2 f32[3,2] = SgdUpdate(%w, %acc.1, %rate) @again phase update per_step device 0\n") ==
      "value \"w\" is written over twice");
  CHECK(changed("SgdUpdate(%w, %acc.1", "SgdUpdate(%rate, %acc.1") ==
        "node \"sgd\" (SgdUpdate) writes over value \"rate\", which is of kind input");
  CHECK(changed("SgdUpdate(%w, %acc.1", "SgdUpdate(%c, %acc.1") ==
        "node \"sgd\" (SgdUpdate) writes over value \"c\", which is of kind constant");
  CHECK(changed("SgdUpdate(%w, %acc.1", "SgdUpdate(%mean, %acc.1") ==
        "node \"sgd\" (SgdUpdate) writes over value \"mean\" with another type");
  CHECK(changed("SgdUpdate(%w, %acc.1, %rate)", "SgdUpdate(_, %acc.1, %rate)") ==
        "node \"sgd\" (SgdUpdate) writes over operand 0, which is absent");
  CHECK(changed("SgdUpdate(%w, %acc.1, %rate)", "SgdUpdate()") ==
        "node \"sgd\" (SgdUpdate) writes over operand 0, which is absent");
}

TEST_CASE("verify: updates are written over what they update, once") {
  CHECK(changed("update %w -> %w.1", "update %w -> %acc.1") ==
        "the update of value \"w\" is value \"acc.1\", which is not written over it");
  CHECK(changed("update %w -> %w.1", "update %x -> %w.1") == "value \"x\" is updated, but of kind input");
  CHECK(changed("update %w -> %w.1", "update %w -> %w.1\nupdate %w -> %w.1") == "value \"w\" is updated twice");
  CHECK(changed("update %w -> %w.1", "update %w -> %w.1\nupdate %acc -> %acc.1") == "none");
  CHECK(changed("update %w -> %w.1", "update %w -> %w.1\nupdate %acc -> %acc") ==
        "none");  // a state that keeps its content
}

TEST_CASE("verify: gradients are per step, of the parameter's shape, one each") {
  CHECK(changed("gradient %w -> %acc.1", "gradient %w -> %gw") ==
        "the gradient of value \"w\" is not accumulated over the step");
  CHECK(changed("gradient %w -> %acc.1", "gradient %w -> %rate") == "the gradient of value \"w\" has the shape ()");
  CHECK(changed("gradient %w -> %acc.1", "gradient %acc -> %acc.1") ==
        "value \"acc\" has a gradient, but is no parameter");
  CHECK(changed("gradient %w -> %acc.1", "gradient %w -> %acc.1\ngradient %w -> %acc.1") ==
        "value \"w\" has two gradients");
  CHECK(violation(parse_graph("graph g training\nparameter %w f32[] from \"w\"\ngradient %w -> %w")) ==
        "the gradient of value \"w\" is value \"w\", which no gradient node makes");
}

TEST_CASE("verify: the loss is a floating-point scalar") {
  CHECK(changed("loss %l", "loss %y") == "the loss is f32[4,2], not a floating-point scalar");
  CHECK(changed("%l f32[] =", "%l i64[] =") == "the loss is i64[], not a floating-point scalar");
  CHECK(changed("loss %l", "loss %rate") == "the loss is value \"rate\", which no node makes");
}

TEST_CASE("verify: phases go forward and anchors stand before") {
  CHECK(changed("@gw phase weight_grad anchor @fc", "@gw phase weight_grad anchor @gy") ==
        "the anchor of node \"gw\" (MatMul) is no earlier forward node");
  CHECK(changed("@gy phase input_grad anchor @loss", "@gy phase input_grad anchor @sgd") ==
        "the anchor of node \"gy\" (Mul) is no earlier forward node");
  CHECK(changed("@gw phase weight_grad anchor @fc", "@gw") ==
        "node \"gw\" (MatMul) of phase forward reads from node \"back\" (Transfer) of phase input_grad");
  CHECK(changed("@sum phase weight_grad", "@sum phase input_grad").find("of phase input_grad reads from node \"gw\"") !=
        std::string::npos);
  CHECK(changed("@gy phase input_grad anchor @loss", "@gy phase input_grad") ==
        "node \"gy\" (Mul) has the phase input_grad and no anchor");
  CHECK(broken([](Graph& g) { g.node(NodeId(3)).anchor = NodeId(999); }) ==
        "the anchor of node \"gy\" (Mul) is no earlier forward node");
  CHECK(violation(parse_graph("graph g canonical\n%y f32[] = Relu(_) @n phase update")) ==
        "node \"n\" (Relu) has the phase update in a graph that is canonical");
}

TEST_CASE("verify: before placing no node has a device, after it every node has one") {
  CHECK(violation(parse_graph("graph g training\n%y f32[] = Relu(_) @n device 0")) ==
        "node \"n\" (Relu) has a device in a graph that is training");
  CHECK(violation(parse_graph("graph g placed\n%y f32[] = Relu(_) @n")) ==
        "node \"n\" (Relu) has no device in a graph that is placed");
  CHECK(violation(parse_graph("graph g placed\n%y f32[] = Relu(_) @n device 1\n%z f32[] = Relu(%y) @m device 0")) ==
        "none");
}

TEST_CASE("verify: in a placed graph what is updated in place is updated where it lives") {
  constexpr std::string_view kPlaced = R"(graph g placed
input %x f32[2]
state %s f32[2] = splat 0
parameter %w f32[2] from "w"
%y f32[2] = Add(%x, %w) @forward device 0
%g f32[2] = Neg(%y) @gradient phase weight_grad anchor @forward device 0
%s.1 f32[2] per_step = GradAccumulate(%g, %s) @sum phase weight_grad anchor @forward device 0
%w.1 f32[2] = SgdUpdate(%w, %s.1) @sgd phase update per_step anchor @forward device 0
update %w -> %w.1
)";
  const auto with = [&](std::string_view from, std::string_view to) {
    std::string text(kPlaced);
    return violation(parse_graph(text.replace(text.find(from), from.size(), to)));
  };
  CHECK(with("graph g", "graph g") == "none");
  CHECK(with("per_step anchor @forward device 0", "per_step anchor @forward device 1") ==
        "node \"sgd\" (SgdUpdate) on device 1 writes over value \"w\", which is on device 0");
  CHECK(with("%g f32[2] = Neg(%y) @gradient phase weight_grad anchor @forward device 0",
             "%g f32[2] = Add(%y, %s) @gradient phase weight_grad anchor @forward device 1") ==
        "value \"s\" is read on devices 1 and 0, a state has one");
}

TEST_CASE("verify: a local graph reads only what is on its device") {
  CHECK(changed("ReduceSum(%y.1)", "ReduceSum(%y)") ==
        "node \"loss\" (ReduceSum) on device 1 reads value \"y\", which is on device 0");
  CHECK(changed("MatMul(%x, %w) @fc device 0", "MatMul(%x, %w) @fc device 1")
            .find("reads value \"w\", which is on device 1") != std::string::npos);
  CHECK(changed("Mul(%y.1, %c)", "Mul(%y.1, %rate)") == "none");  // inputs and constants are where they are read
}

TEST_CASE("verify: a transfer carries each operand, unchanged, in a local graph") {
  CHECK(violation(parse_graph("graph g placed\ninput %x f32[]\n%y f32[] = Transfer(%x) @t device 0")) ==
        "node \"t\" (Transfer) stands in a graph that is placed");
  CHECK(changed("%y.1 f32[4,2] = Transfer(%y)", "%y.1 f32[4,2] = Transfer(%y, %x)") ==
        "node \"send\" (Transfer) has 2 operands and 1 outputs");
  CHECK(changed("%y.1 f32[4,2] = Transfer(%y)", "%y.1 f32[4,2] = Transfer(_)") ==
        "node \"send\" (Transfer) carries nothing in place 0");
  CHECK(changed("%y.1 f32[4,2] = Transfer(%y)", "%y.1 f32[2,4] = Transfer(%y)") ==
        "node \"send\" (Transfer) changes the type of value \"y\"");
}

}  // namespace
}  // namespace mpc
