#include "compiler/ir/parse.h"
#include "compiler/ir/print.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <doctest/doctest.h>

#include "compiler/base/random.h"
#include "tests/unit/helpers.h"

namespace mpc {
namespace {

using test::error_of;

std::string message(std::string_view text) {
  const auto error = error_of([&] { (void)parse_graph(text); });
  return error ? std::string(error_name(error->id())) + " " + error->what() : "none";
}

bool is_same(const Value& a, const Value& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && a.kind == b.kind && a.rate == b.rate &&
         a.producer == b.producer && a.output_index == b.output_index && a.literal == b.literal &&
         a.source == b.source && a.trainable == b.trainable;
}

bool is_same(const Node& a, const Node& b) {
  return a.op == b.op && a.name == b.name && a.origin == b.origin && a.attributes == b.attributes &&
         a.inputs == b.inputs && a.outputs == b.outputs && a.phase == b.phase && a.rate == b.rate &&
         a.anchor == b.anchor && a.device == b.device;
}

void check_same(const Graph& a, const Graph& b) {
  CHECK(a.name == b.name);
  CHECK(a.stage == b.stage);
  CHECK(a.inputs == b.inputs);
  CHECK(a.loss == b.loss);
  REQUIRE(a.value_count() == b.value_count());
  REQUIRE(a.node_count() == b.node_count());
  REQUIRE(a.outputs.size() == b.outputs.size());
  REQUIRE(a.updates.size() == b.updates.size());
  REQUIRE(a.gradients.size() == b.gradients.size());
  for (size_t i = 0; i < a.values().size(); ++i) {
    CAPTURE(a.values()[i].name);
    CHECK(is_same(a.values()[i], b.values()[i]));
  }
  for (size_t i = 0; i < a.nodes().size(); ++i) {
    CAPTURE(a.nodes()[i].name);
    CHECK(is_same(a.nodes()[i], b.nodes()[i]));
  }
  for (size_t i = 0; i < a.outputs.size(); ++i) {
    CHECK(a.outputs[i].name == b.outputs[i].name);
    CHECK(a.outputs[i].value == b.outputs[i].value);
  }
  for (size_t i = 0; i < a.updates.size(); ++i) {
    CHECK(a.updates[i].persistent == b.updates[i].persistent);
    CHECK(a.updates[i].next == b.updates[i].next);
  }
  for (size_t i = 0; i < a.gradients.size(); ++i) {
    CHECK(a.gradients[i].parameter == b.gradients[i].parameter);
    CHECK(a.gradients[i].gradient == b.gradients[i].gradient);
  }
}

void check_round_trip(const Graph& graph) {
  const std::string text = print(graph);
  const Graph again = parse_graph(text);
  check_same(graph, again);
  CHECK(print(again) == text);
}

// A training step with every field of a graph in use.
Graph training_graph() {
  Graph graph;
  graph.name = "tiny step";
  graph.stage = Stage::local;
  const ValueId x = graph.add_input("x", DType::f32, {4, 3});
  const ValueId w = graph.add_parameter("w", DType::f32, {3, 2}, "model/w \"1\"", true);
  const ValueId frozen = graph.add_parameter("frozen", DType::bf16, {2}, "b", false);
  const ValueId state = graph.add_state("momentum", Literal::splat_number(DType::f32, {3, 2}, 0));
  const auto add = [&](OpKind op, std::string name, std::vector<ValueId> inputs,
                       std::vector<Graph::OutputType> outputs) {
    return graph.add_node(Node{.op = op,
                               .name = std::move(name),
                               .origin = {},
                               .attributes = {},
                               .inputs = std::move(inputs),
                               .outputs = {},
                               .anchor = {},
                               .device = DeviceId(0)},
                          outputs);
  };
  const NodeId forward = add(OpKind::MatMul, "fc/MatMul", {x, w}, {{"y:0", DType::f32, {4, 2}}});
  graph.node(forward).origin = "fc (MatMul)";
  const ValueId scale = graph.add_constant("scale", Literal::scalar(DType::f32, 0.1));
  const ValueId rate = graph.add_input("rate", DType::f32, {}, Rate::per_step);
  const NodeId loss = add(OpKind::ReduceSum, "loss", {graph.node(forward).outputs[0]}, {{"l", DType::f32, {}}});
  graph.node(loss).attributes = {{"axes", std::vector<int64_t>{0, 1}}, {"keepdims", int64_t{0}}};
  const NodeId gradient =
      add(OpKind::MatMul, "fc/grad", {x, ValueId{}, scale}, {{}, {"gw", DType::f32, {3, 2}, Rate::per_microbatch}});
  graph.node(gradient).phase = Phase::weight_grad;
  graph.node(gradient).anchor = forward;
  const NodeId sum = add(OpKind::GradAccumulate, "acc", {graph.node(gradient).outputs[1], state},
                         {{"acc.next", DType::f32, {3, 2}, Rate::per_step}});
  graph.node(sum).phase = Phase::weight_grad;
  Node update{.op = OpKind::SgdUpdate,
              .name = "sgd",
              .origin = {},
              .attributes = {{"lr", 1.0}},
              .inputs = {w, graph.node(sum).outputs[0], rate},
              .outputs = {},
              .phase = Phase::update,
              .rate = Rate::per_step,
              .anchor = forward,
              .device = DeviceId(7)};
  const std::vector<Graph::OutputType> next = {{"w.next", DType::f32, {3, 2}, Rate::per_step}};
  const NodeId sgd = graph.add_node(std::move(update), next);
  add(OpKind::Transfer, "no outputs", {frozen}, {});
  graph.inputs = {rate, x};
  graph.outputs = {{"y", graph.node(forward).outputs[0]}, {"the loss", graph.node(loss).outputs[0]}};
  graph.loss = graph.node(loss).outputs[0];
  graph.gradients = {{w, graph.node(sum).outputs[0]}};
  graph.updates = {{w, graph.node(sgd).outputs[0]}};
  return graph;
}

TEST_CASE("ir text: every field of a graph survives") {
  check_round_trip(training_graph());
}

TEST_CASE("ir text: this is what it looks like") {
  CHECK(print(training_graph()) ==
        R"mpc(graph "tiny step" local
input %x f32[4,3]
parameter %w f32[3,2] from "model/w \"1\""
parameter %frozen bf16[2] from "b" frozen
state %momentum f32[3,2] = splat 0
%y:0 f32[4,2] = MatMul(%x, %w) @fc/MatMul device 0 origin "fc (MatMul)"
constant %scale f32[] = 0.1
input %rate f32[] per_step
%l f32[] = ReduceSum(%y:0) {axes = [0, 1], keepdims = 0} @loss device 0
_, %gw f32[3,2] = MatMul(%x, _, %scale) @fc/grad phase weight_grad anchor @fc/MatMul device 0
%acc.next f32[3,2] per_step = GradAccumulate(%gw, %momentum) @acc phase weight_grad device 0
%w.next f32[3,2] = SgdUpdate(%w, %acc.next, %rate) {lr = 1.0} @sgd phase update per_step anchor @fc/MatMul device 7
() = Transfer(%frozen) @"no outputs" device 0
inputs [%rate, %x]
output y = %y:0
output "the loss" = %l
loss %l
gradient %w -> %acc.next
update %w -> %w.next
)mpc");
}

TEST_CASE("ir text: names of any bytes survive") {
  Graph graph;
  graph.name = "";
  for (const std::string& name : {std::string("a b"), std::string("\"\\\n\t"), std::string("\0\xff\x80", 3),
                                  std::string("\xe2\x82\xac"), std::string("x,y"), std::string("#"), std::string("%"),
                                  std::string("_"), std::string("="), std::string(4096, 'n'), std::string("->")}) {
    const ValueId id = graph.add_input(name, DType::f32, {});
    const std::vector<Graph::OutputType> output = {{name + "!", DType::f32, {}}};
    graph.add_node(Node{.op = OpKind::Relu,
                        .name = name,
                        .origin = name,
                        .attributes = {{name, name}},
                        .inputs = {id},
                        .outputs = {},
                        .anchor = {},
                        .device = {}},
                   output);
    graph.outputs.push_back({name, id});
  }
  CHECK(message(print(graph)).starts_with("M051"));  // the name of 4097 bytes
  Graph shorter = graph;
  for (int i = 0; i < shorter.value_count(); ++i) {
    if (shorter.value(ValueId(i)).name.size() > 4096) shorter.value(ValueId(i)).name = "short";
  }
  check_round_trip(shorter);
}

TEST_CASE("ir text: attributes keep type and bits") {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  Graph graph;
  graph.name = "g";
  const ValueId x = graph.add_input("x", DType::f32, {});
  Attributes attributes{{"i", int64_t{3}},
                        {"imin", std::numeric_limits<int64_t>::min()},
                        {"f", 3.0},
                        {"fneg", -0.0},
                        {"ftiny", 5e-324},
                        {"finf", -kInf},
                        {"fbig", 1e300},
                        {"t", std::string("a \"b\"")},
                        {"tempty", std::string()},
                        {"is", std::vector<int64_t>{1, -2}},
                        {"is0", std::vector<int64_t>{}},
                        {"fs", std::vector<double>{1, 0.1, kInf}},
                        {"fs0", std::vector<double>{}},
                        {"ts", std::vector<std::string>{"", "x"}},
                        {"ts0", std::vector<std::string>{}}};
  const std::vector<Graph::OutputType> output = {{"y", DType::f32, {}}};
  graph.add_node(Node{.op = OpKind::Relu,
                      .name = "n",
                      .origin = {},
                      .attributes = attributes,
                      .inputs = {x},
                      .outputs = {},
                      .anchor = {},
                      .device = {}},
                 output);
  check_round_trip(graph);
  const Graph again = parse_graph(print(graph));
  CHECK(std::signbit(again.node(NodeId(0)).attributes.number("fneg")));
  graph.node(NodeId(0)).attributes = {{"nan", std::nan("")}};
  CHECK(std::isnan(parse_graph(print(graph)).node(NodeId(0)).attributes.number("nan")));
}

TEST_CASE("ir text: literals of every dtype, size and bit pattern survive") {
  Graph graph;
  graph.name = "g";
  const RandomStream stream{.seed = 2024};
  int64_t word = 0;
  for (int i = 0; i < kDTypeCount; ++i) {
    const DType dtype = static_cast<DType>(i);
    const std::string name(dtype_name(dtype));
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{1}, Shape{4, 4}, Shape{17}, Shape{3, 1, 7}}) {
      for (int repeat = 0; repeat < 20; ++repeat) {
        std::vector<std::byte> bytes(static_cast<size_t>(byte_size(shape, dtype)));
        for (std::byte& b : bytes) b = static_cast<std::byte>(random_word(stream, word++));
        graph.add_constant(name, Literal(dtype, shape, bytes));
        bytes.assign(static_cast<size_t>(dtype_bytes(dtype)), std::byte{0});
        for (std::byte& b : bytes) b = static_cast<std::byte>(random_word(stream, word++));
        graph.add_state(name + ".splat", Literal::splat(dtype, shape, bytes));
      }
    }
    for (const double value : {0.0, -0.0, 1.0, -1.0, 0.1, 255.0, 1e-45, 65504.0, 3.4e38, static_cast<double>(INFINITY),
                               -static_cast<double>(INFINITY)}) {
      graph.add_constant(name + ".number", Literal::scalar(dtype, value));
    }
  }
  graph.add_constant("nan", Literal::scalar(DType::f32, std::nan("")));
  check_round_trip(graph);
}

TEST_CASE("ir text: the exact texts of literals") {
  Graph graph;
  graph.name = "g";
  graph.add_constant("a", Literal::integers({1, -2}));
  graph.add_constant("b", Literal::scalar(DType::boolean, 1));
  graph.add_constant("c", Literal::splat_number(DType::f16, {3}, 0.1));
  const auto bytes = test::bytes_of("abcdefghijklmnopqr");
  graph.add_constant("d", Literal(DType::u8, {18}, bytes));
  const uint32_t payload_nan = 0x7FC01234;
  std::vector<std::byte> element(4);
  std::memcpy(element.data(), &payload_nan, 4);
  graph.add_constant("e", Literal(DType::f32, {}, element));
  CHECK(print(graph) == R"(graph g imported
constant %a i64[2] = [1, -2]
constant %b bool[] = true
constant %c f16[3] = splat 0.099975586
constant %d u8[18] = base64 "YWJjZGVmZ2hpamtsbW5vcHFy"
constant %e f32[] = base64 "NBLAfw=="
)");
}

TEST_CASE("ir text: comments, blank lines, tabs and CRLF are skipped; a node may go without a name") {
  const Graph graph = parse_graph(
      "# a case\r\n\r\n  graph g canonical # comment\r\n\tinput %x f32[ 2 , 3 ]\r\n%y f32[2,3] = Relu( %x ) # "
      "last\n\noutput y = %y");
  CHECK(graph.node(NodeId(0)).name == "y");
  CHECK(graph.value(ValueId(0)).shape == Shape{2, 3});
  CHECK(graph.outputs.size() == 1);
}

TEST_CASE("ir text: errors name line, column, what was expected and what was found") {
  CHECK(message("") == "M064 1:1: the text is empty");
  CHECK(message("grahp g imported") == "M064 1:1: a graph begins with 'graph NAME STAGE'");
  CHECK(message("graph g done") == "M064 1:9: 'done' is not a stage");
  CHECK(message("graph g imported x") == "M064 1:18: the end of the line is expected, found 'x'");
  const auto after = [](std::string_view line) {
    return message("graph g imported\ninput %x f32[2]\n" + std::string(line));
  };
  CHECK(after("nonsense") == "M064 3:1: 'nonsense' begins no statement");
  CHECK(after("input %x f32[]") == "M064 3:8: the value \"x\" stands twice");
  CHECK(after("input %y q32[]") == "M064 3:10: 'q32' is not an element type");
  CHECK(after("input %y f32[-1]") == "M064 3:14: a dimension in [0, 9223372036854775807] is expected, found '-1]'");
  CHECK(after("input %y f32[99999999999999999999]").starts_with("M064 3:14"));
  CHECK(after("input %y f32[4294967296,4294967296]") == "M064 3:10: the tensor is too large");
  CHECK(after("input %y f32[1,1,1,1,1,1,1,1,1]") == "M064 3:30: a shape has at most 8 dimensions");
  CHECK(after("input %y f32[2") == "M064 3:15: ']' is expected, found the end of the text");
  CHECK(after("%y f32[2] = Relu(%z)") == "M064 3:18: the value \"z\" is not known here");
  CHECK(after("%y f32[2] = Relu(%y)") == "M064 3:18: the value \"y\" is not known here");
  CHECK(after("%y f32[2] = Rleu(%x)") == "M064 3:13: 'Rleu' is not an operator");
  CHECK(after("%y f32[2], %y f32[2] = Relu(%x)") == "M064 3:13: the value \"y\" stands twice");
  CHECK(after("_ = Relu(%x)") == "M064 3:13: a node without a first output needs a '@NAME'");
  CHECK(after("_ = Relu(%x) @n") == "none");
  CHECK(after("() = Relu(%x) @n") == "none");
  CHECK(after("%y f32[2] = Relu(%x) {a = 1, a = 2}").starts_with("M064 3:30: the attribute \"a\" stands twice"));
  CHECK(after("%y f32[2] = Relu(%x) {a = [1, 2.5]}").starts_with("M064 3:31: the elements of a list are of one type"));
  CHECK(after("%y f32[2] = Relu(%x) {a = 99999999999999999999}").starts_with("M064 3:27"));
  CHECK(after("%y f32[2] = Relu(%x) {a = 1e999}").starts_with("M064 3:27"));
  CHECK(after("%y f32[2] = Relu(%x) {a = \"b").starts_with("M064 3:27: the quoted text has no end"));
  CHECK(after("%y f32[2] = Relu(%x) {a = \"\\q\"}").starts_with("M064 3:28: an unknown escape"));
  CHECK(after("%y f32[2] = Relu(%x) {a = \"\\x1\"}").starts_with("M064 3:28: \\x takes two"));
  CHECK(after("%y f32[2] = Relu(%x) @a anchor @b") == "M064 3:32: there is no node \"b\"");
  CHECK(
      after("%y f32[2] = Relu(%x) @a\n%z f32[2] = Relu(%x) @a").starts_with("M064 4:23: the node \"a\" stands twice"));
  CHECK(after("%y f32[2] = Relu(%x) @a device 65536").starts_with("M064 3:32"));
  CHECK(after("%y f32[2] = Relu(%x) @a device 65535") == "none");
  CHECK(after("%y f32[2] = Relu(%x) @a phase sideways") == "M064 3:31: 'sideways' is not a phase");
  CHECK(after("%y f32[2] = Relu(%x) @a per_step per_step") == "M064 3:34: 'per_step' stands twice");
  CHECK(after("constant %c f32[2] = [1]") == "M064 3:22: f32[2] has 2 elements, 1 are listed");
  CHECK(after("constant %c i8[1] = [128]") == "M064 3:22: '128' is not a value of i8");
  CHECK(after("constant %c f32[] = 1e39") == "M064 3:21: '1e39' is not a value of f32");
  CHECK(after("constant %c bool[] = 2") == "M064 3:22: '2' is not a value of bool");
  CHECK(after("constant %c f32[] = none").starts_with("M064"));
  CHECK(after("constant %c u8[4] = base64 \"AAAA\"") == "M064 3:28: base64 of 4 bytes is expected, found 4 characters");
  CHECK(after("constant %c u8[1] = base64 \"A===\"").starts_with("M064 3:28"));
  CHECK(after("constant %c u8[3] = base64 \"A!AA\"") == "M064 3:28: '!' is not a base64 digit");
  CHECK(after("constant %c f32[1099511627776] = [1]").starts_with("M064"));
  CHECK(after("constant %c f32[1099511627776] = base64 \"AAAA\"").starts_with("M064"));
  CHECK(after("output y = %x\noutput y = %x") == "M064 4:8: the output \"y\" stands twice");
  CHECK(after("loss %x\nloss %x").starts_with("M064 4:"));
  CHECK(after("inputs [%x, %x]") == "M064 3:8: the list must hold every input once");
  CHECK(after("inputs []") == "M064 3:8: the list must hold every input once");
  CHECK(after("update %x %x").starts_with("M064 3:11: '->' is expected"));
  CHECK(after("input %\"\" f32[]").starts_with("M064"));
}

TEST_CASE("ir text: limits are exact") {
  const auto operands = [](int count) {
    std::string line = "%y f32[] = Relu(";
    for (int i = 0; i < count; ++i) line += i == 0 ? "_" : ",_";
    return message("graph g imported\n" + line + ")");
  };
  CHECK(operands(65536) == "none");
  CHECK(operands(65537).starts_with("M051"));
  const auto attributes = [](int count) {
    std::string line = "%y f32[] = Relu() {";
    for (int i = 0; i < count; ++i) line += (i == 0 ? "a" : ",a") + std::to_string(i) + "=1";
    return message("graph g imported\n" + line + "}");
  };
  CHECK(attributes(1000) == "none");
  CHECK(attributes(1001).starts_with("M051"));
  const auto name = [](size_t bytes) {
    return message("graph g imported\ninput %" + std::string(bytes, 'n') + " f32[]");
  };
  CHECK(name(4096) == "none");
  CHECK(name(4097).starts_with("M051"));
  const auto few = [](std::string_view lines) {
    const TextLimits limits{.nodes = 2, .values = 3};
    return test::error_id([&] { (void)parse_graph("graph g imported\n" + std::string(lines), limits); });
  };
  CHECK(few("() = Relu() @a\n() = Relu() @b") == "none");
  CHECK(few("() = Relu() @a\n() = Relu() @b\n() = Relu() @c") == "M051");
  CHECK(few("input %a f32[]\n%b f32[], %c f32[] = Relu()") == "none");
  CHECK(few("input %a f32[]\n%b f32[], %c f32[] = Relu()\ninput %d f32[]") == "M051");
  CHECK(few("input %a f32[]\n%b f32[], %c f32[], %d f32[] = Relu()") == "M051");
  CHECK(TextLimits().nodes == 1000000);
}

// Every text must end in a graph or in one of the two errors; the sanitizer presets watch the rest.
TEST_CASE("ir text: damaged texts are refused or read, never worse") {
  const std::string whole = print(training_graph());
  const auto is_clean = [](const std::string& text) {
    const std::string outcome = message(text);
    return outcome == "none" || outcome.starts_with("M064") || outcome.starts_with("M051");
  };
  for (size_t length = 0; length < whole.size(); ++length) REQUIRE(is_clean(whole.substr(0, length)));
  constexpr uint64_t kSeed = 99;
  constexpr std::string_view kBytes = "%@_()[]{}=,\"\\ \n0-9a.>\x00\xff#";
  for (int64_t round = 0; round < 10000; ++round) {
    std::string text = whole;
    const RandomStream stream{.seed = kSeed, .user = static_cast<uint64_t>(round)};
    for (int64_t i = 0; i <= random_word(stream, 0) % 4; ++i) {
      const size_t at = random_word(stream, 3 * i + 1) % text.size();
      const char byte = kBytes[random_word(stream, 3 * i + 2) % kBytes.size()];
      switch (random_word(stream, 3 * i + 3) % 3) {
        case 0:
          text[at] = byte;
          break;
        case 1:
          text.insert(at, 1, byte);
          break;
        default:
          text.erase(at, 1 + random_word(stream, 3 * i + 4) % 8);
          break;
      }
    }
    CAPTURE(round);
    REQUIRE(is_clean(text));
  }
}

TEST_CASE("ir text: a graph that is wrong still prints") {
  Graph graph = training_graph();
  graph.node(NodeId(0)).inputs[0] = ValueId(12345);
  graph.node(NodeId(2)).anchor = NodeId(999);
  graph.value(ValueId(5)).literal = Literal();
  graph.loss = ValueId(777);
  const std::string text = print(graph);
  CHECK(text.find("MatMul(?value12345, %w)") != std::string::npos);
  CHECK(text.find("anchor ?node999") != std::string::npos);
  CHECK(text.find("loss ?value777") != std::string::npos);
  CHECK(message(text).starts_with("M064"));
}

}  // namespace
}  // namespace mpc
