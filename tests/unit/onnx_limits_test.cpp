#include <doctest/doctest.h>

#include <filesystem>

#include "compiler/onnx/model.h"
#include "compiler/onnx/wire.h"
#include "tests/unit/onnx_support.h"

// Every limit of onnx_io::Limits, at it and one past it: M051.

namespace mpc::test {
namespace {

using onnx_io::Limits;

pb::ModelProto relu() {
  return parse_graph("(float[2] x) => (float[2] y) { y = Relu(x) }");
}

Limits limits(auto Limits::*member, auto value) {
  Limits result;
  result.*member = value;
  return result;
}

/// A model whose node `y` is an If in an If ... `depth` deep.
pb::ModelProto nested(int depth) {
  pb::ModelProto proto = parse_graph("(bool c, float[2] x) => (float[2] y) { y = Relu(x) }");
  pb::GraphProto* graph = proto.mutable_graph();
  for (int i = 0; i < depth; ++i) {
    pb::NodeProto& node = *graph->mutable_node(0);
    node.clear_input();
    node.add_input("c");
    node.set_op_type("If");
    for (const char* name : {"else_branch", "then_branch"}) {
      auto& attribute = *node.add_attribute();
      attribute.set_name(name);
      attribute.set_type(pb::AttributeProto::GRAPH);
      auto& inner = *attribute.mutable_g();
      inner.add_output()->set_name("y" + std::to_string(i));
      auto& made = *inner.add_node();
      made.set_op_type("Relu");
      made.add_input("x");
      made.add_output("y" + std::to_string(i));
      graph = &inner;
    }
  }
  return proto;
}

/// Functions F0, F1, ... of two calls each: F<n> comes to 2^n nodes.
pb::ModelProto doubling(int levels) {
  std::string text = "<ir_version: 10, opset_import: [\"\" : 21, \"f\" : 1]> g (float[2] x) => (float[2] y) { y = f.F" +
                     std::to_string(levels) + "(x) }";
  const std::string head = " <opset_import: [\"\" : 21, \"f\" : 1], domain: \"f\"> ";
  text += head + "F0 (a) => (b) { b = Relu(a) }";
  for (int i = 1; i <= levels; ++i) {
    const std::string inner = "f.F" + std::to_string(i - 1);
    text += head + "F" + std::to_string(i) + " (a) => (c) { b = " + inner + "(a) c = " + inner + "(b) }";
  }
  return parse_model(text);
}

}  // namespace

TEST_CASE("limits: bytes of the model file") {
  const auto bytes = static_cast<int64_t>(relu().ByteSizeLong());
  CHECK(load_error(relu(), limits(&Limits::model_bytes, bytes)) == "none");
  CHECK(load_error(relu(), limits(&Limits::model_bytes, bytes - 1)) == "M051");
}

TEST_CASE("limits: messages and strings of the file") {
  const TemporaryFolder folder;
  const InputFile file([&] {
    write_proto(relu(), folder / "m.onnx");
    return folder / "m.onnx";
  }());
  int64_t items = 1;
  while (error_id([&] { onnx_io::check_wire(file, pb::ModelProto::descriptor(), items); }) == "M051") ++items;
  CHECK(error_id([&] { onnx_io::check_wire(file, pb::ModelProto::descriptor(), items); }) == "none");
  CHECK(items > 5);   // opset, graph, node, its names ...
  CHECK(items < 30);  // each is counted once
}

TEST_CASE("limits: nodes, before and after functions are inlined") {
  const pb::ModelProto two = parse_graph("(float[2] x) => (float[2] y) { a = Relu(x) y = Relu(a) }");
  CHECK(load_error(two, limits(&Limits::nodes, 2)) == "none");
  CHECK(load_error(two, limits(&Limits::nodes, 1)) == "M051");
  CHECK(load_error(doubling(5), limits(&Limits::nodes, 32)) == "none");
  CHECK(load_error(doubling(5), limits(&Limits::nodes, 31)) == "M051");
  CHECK(load_error(doubling(60)) == "M051");
}

TEST_CASE("limits: depth and number of functions") {
  CHECK(load_error(doubling(3), limits(&Limits::function_call_depth, 4)) == "none");
  CHECK(load_error(doubling(3), limits(&Limits::function_call_depth, 3)) == "M051");
  CHECK(load_error(doubling(3), limits(&Limits::functions, 4)) == "none");
  CHECK(load_error(doubling(3), limits(&Limits::functions, 3)) == "M051");
}

TEST_CASE("limits: depth of graphs in nodes") {
  CHECK(load_error(nested(3), limits(&Limits::subgraph_depth, 3)) == "none");
  CHECK(load_error(nested(3), limits(&Limits::subgraph_depth, 2)) == "M051");
  CHECK(load_error(nested(200)) == "M020");  // the wire format itself is bounded first
}

TEST_CASE("limits: attributes, operands and names of a node") {
  const pb::ModelProto gemm =
      parse_graph("(float[2,2] x) => (float[2,2] y) { y = Gemm<transA = 1, transB = 1>(x, x) }");
  CHECK(load_error(gemm, limits(&Limits::attributes_per_node, 2)) == "none");
  CHECK(load_error(gemm, limits(&Limits::attributes_per_node, 1)) == "M051");
  CHECK(load_error(gemm, limits(&Limits::values_per_node, 3)) == "none");
  CHECK(load_error(gemm, limits(&Limits::values_per_node, 2)) == "M051");
  pb::ModelProto named = relu();
  named.mutable_graph()->mutable_node(0)->set_name(std::string(4096, 'n'));
  CHECK(load_error(named) == "none");
  named.mutable_graph()->mutable_node(0)->set_name(std::string(4097, 'n'));
  CHECK(load_error(named) == "M051");
}

TEST_CASE("limits: folded constants, each and in all, and values") {
  const auto error = [](const Limits& limits, const std::string& text) {
    const onnx_io::Model model = load(parse_graph(text), limits);
    return error_id([&] { import(model); });
  };
  const std::string range =
      "() => (int64[100] y) { a = Constant<value_int = 0>() b = Constant<value_int = 100>() c = Constant<value_int = "
      "1>() y = Range(a, b, c) }";
  CHECK(error(limits(&Limits::folded_constant_bytes, 800), range) == "none");
  CHECK(error(limits(&Limits::folded_constant_bytes, 799), range) == "M051");
  CHECK(error(limits(&Limits::folded_bytes_total, 824), range) == "none");  // the range and three scalars
  CHECK(error(limits(&Limits::folded_bytes_total, 823), range) == "M051");
  const std::string fill = "(float[1] x) => (float[8] y) { s = Constant<value_ints = [8]>() y = Expand(x, s) }";
  CHECK(error(limits(&Limits::value_bytes, 32), fill) == "none");
  CHECK(error(limits(&Limits::value_bytes, 31), fill) == "M051");
}

TEST_CASE("limits: shapes that no memory holds are refused before anything is allocated") {
  const auto graph_error = [](const std::string& text) { return import_error(parse_graph(text)); };
  CHECK(graph_error("(float[1] x) => (float[N] y) { s = Constant<value_ints = [4398046511104]>() y = Expand(x, s) }") ==
        "M051");
  CHECK(graph_error("() => (float[N] y) { s = Constant<value_ints = [1099511627776]>() y = ConstantOfShape(s) }") ==
        "M051");
  CHECK(
      graph_error("() => (float[N] y) { s = Constant<value_ints = [4611686018427387904]>() y = ConstantOfShape(s) }") ==
      "M051");
  CHECK(graph_error("() => (int64[N] y) { a = Constant<value_int = 0>() b = Constant<value_int = "
                    "1152921504606846976>() c = Constant<value_int = 1>() y = Range(a, b, c) }") == "M051");
  CHECK(graph_error("(float[4611686018427387904, 8] x) => (float[N, M] y) { y = Relu(x) }") == "M051");
}

}  // namespace mpc::test
