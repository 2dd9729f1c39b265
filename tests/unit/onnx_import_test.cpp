#include <limits>

#include <doctest/doctest.h>

#include "api/reference_evaluator.h"
#include "compiler/ir/verify.h"
#include "tests/unit/onnx_support.h"

// import(): shapes, parameters and constants, folding, names, and what is refused.

namespace mpc::test {
namespace {

using onnx_io::ImportOptions;

const char* const kTwoInputs =
    "(float[batch, 4] a, float[batch, 4] b, float[time, 4] c) => (float[batch, 4] y) { d = Add(a, b) y = Identity(d) }";

Shape input_shape(const Graph& graph, size_t i) {
  return graph.value(graph.inputs[i]).shape;
}

const Value& value_named(const Graph& graph, std::string_view name) {
  for (const Value& value : graph.values()) {
    if (value.name == name) return value;
  }
  throw std::runtime_error("no value of that name");
}

}  // namespace

TEST_CASE("import: what no one has bound is named at once, with the flags that bind it, M043") {
  const auto error = error_of([] { import(parse_graph(kTwoInputs)); });
  REQUIRE(error);
  CHECK(error->id() == ErrorId::M043);
  CHECK(error->hint() == "bind what is open: --batch N (or --dim batch=N) --dim time=N");
  ImportOptions options;
  options.batch = 2;
  const std::string time = import_message(parse_graph(kTwoInputs), options);
  CHECK(time.find("bind what is open: --dim time=N") != std::string::npos);
}

TEST_CASE("import: a dimension of -1 is one without a name, and the input's shape makes it known") {
  pb::ModelProto proto = parse_graph("(float[2, 3, 4] x, float[n, k] m) => (float[2, 3, 4] y) { y = Relu(x) }");
  auto* dims = proto.mutable_graph()->mutable_input(0)->mutable_type()->mutable_tensor_type()->mutable_shape();
  dims->mutable_dim(0)->set_dim_value(-1);
  dims->mutable_dim(2)->set_dim_value(-1);
  const auto error = error_of([&] { import(proto); });
  REQUIRE(error);
  CHECK(std::string(error->what()).find("its shape (?, 3, ?) is open, as are those of \"m\" (n, k)") !=
        std::string::npos);
  CHECK(error->hint() == "bind what is open: --shape x=N,3,N --dim n=N --dim k=N");
  ImportOptions options;
  options.dims = {{"n", 1}, {"k", 2}};
  options.input_shapes = {{"x", {5, 3, 7}}};
  CHECK(input_shape(import(proto, options), 0) == Shape{5, 3, 7});
  options.input_shapes = {{"x", {5, 4, 7}}};
  CHECK(import_error(proto, options) == "M004");
  dims->mutable_dim(2)->set_dim_value(-2);
  CHECK(import_error(proto, options) == "M022");
}

TEST_CASE("import: a binding of a symbol that no input has is refused, M002, with the one that may be meant") {
  ImportOptions options;
  options.dims = {{"bacth", 2}, {"time", 3}};
  const auto error = error_of([&] { import(parse_graph(kTwoInputs), options); });
  REQUIRE(error);
  CHECK(error->id() == ErrorId::M002);
  CHECK(std::string(error->what()).find("no input has a dimension 'bacth'") != std::string::npos);
  CHECK(error->hint() == "did you mean 'batch'?");
  options.dims = {{"rows_per_step", 2}};
  CHECK(import_message(parse_graph(kTwoInputs), options).find("its dimensions are: batch, time") != std::string::npos);
  CHECK(import_message(parse_graph("(float[2] x) => (float[2] y) { y = Relu(x) }"), options)
            .find("all its dimensions are numbers") != std::string::npos);
}

TEST_CASE("import: symbols are bound by --dim, by given shapes, and by the batch") {
  ImportOptions options;
  options.dims = {{"batch", 2}, {"time", 3}};
  Graph graph = import(parse_graph(kTwoInputs), options);
  CHECK(input_shape(graph, 0) == Shape{2, 4});
  CHECK(input_shape(graph, 2) == Shape{3, 4});

  options = {};
  options.input_shapes = {{"a", {5, 4}}, {"c", {6, 4}}};
  graph = import(parse_graph(kTwoInputs), options);
  CHECK(input_shape(graph, 1) == Shape{5, 4});  // the symbol is the same
  CHECK(input_shape(graph, 2) == Shape{6, 4});

  options = {};
  options.dims = {{"time", 3}};
  options.batch = 7;
  graph = import(parse_graph(kTwoInputs), options);
  CHECK(input_shape(graph, 0) == Shape{7, 4});
  CHECK(input_shape(graph, 1) == Shape{7, 4});
  CHECK(input_shape(graph, 2) == Shape{3, 4});
}

TEST_CASE("import: the batch replaces a number too, in every input that has it in front") {
  ImportOptions options;
  options.batch = 2;
  const Graph graph =
      import(parse_graph(
                 "(float[8, 4] a, float[8, 4] b, float[4, 8] c) => (float[8, 8] y) { d = Add(a, b) y = MatMul(d, c) }"),
             options);
  CHECK(input_shape(graph, 0) == Shape{2, 4});
  CHECK(input_shape(graph, 1) == Shape{2, 4});
  CHECK(input_shape(graph, 2) == Shape{4, 8});
  CHECK(graph.value(graph.outputs[0].value).shape == Shape{2, 8});
}

TEST_CASE("import: shapes that contradict the model or each other are refused with M004") {
  ImportOptions options;
  options.dims = {{"time", 3}};
  options.input_shapes = {{"a", {5, 4}}, {"b", {6, 4}}};
  CHECK(import_error(parse_graph(kTwoInputs), options) == "M004");
  options.input_shapes = {{"a", {5, 3}}};
  CHECK(import_error(parse_graph(kTwoInputs), options) == "M004");
  options.input_shapes = {{"a", {5}}};
  CHECK(import_error(parse_graph(kTwoInputs), options) == "M004");
  options.input_shapes = {{"nobody", {5, 4}}};
  CHECK(import_error(parse_graph(kTwoInputs), options) == "M004");
  options = {};
  options.dims = {{"batch", -1}};
  CHECK(import_error(parse_graph(kTwoInputs), options) == "M003");
}

TEST_CASE("import: an input without a shape needs one, of a rank that mpc has") {
  pb::ModelProto proto = parse_graph("(float[2] x) => (float[2] y) { y = Relu(x) }");
  proto.mutable_graph()->mutable_input(0)->mutable_type()->mutable_tensor_type()->clear_shape();
  CHECK(import_error(proto) == "M043");
  ImportOptions options;
  options.input_shapes = {{"x", {2, 3}}};
  CHECK(input_shape(import(proto, options), 0) == Shape{2, 3});
  options.input_shapes = {{"x", std::vector<int64_t>(8, 1)}};
  CHECK(import_error(proto, options) == "none");
  options.input_shapes = {{"x", std::vector<int64_t>(9, 1)}};
  CHECK(import_error(proto, options) == "M046");
  CHECK(import_error(parse_graph("(string[2] x) => (string[2] y) { y = Identity(x) }")) == "M041");
}

TEST_CASE("import: known inputs are constants and decide shapes") {
  const pb::ModelProto proto =
      parse_graph("(float[2, 3] x, int64[N] shape) => (float[a, b] y) { y = Reshape(x, shape) }");
  ImportOptions options;
  options.dims = {{"N", 2}};
  CHECK(import_error(proto, options) == "M043");
  options.dims.clear();
  options.known_inputs.emplace("shape", Literal::integers({3, -1}));
  const Graph graph = import(proto, options);
  CHECK(graph.inputs.size() == 1);
  CHECK(graph.value(graph.outputs[0].value).shape == Shape{3, 2});
  options.known_inputs.insert_or_assign("shape", floats({2}, {3, 2}));
  CHECK(import_error(proto, options) == "M004");
}

TEST_CASE("import: float initializers are trainable parameters, small integer ones and scalars constants") {
  const Graph graph = import(parse_graph(R"((int64[2] i) => (float[2, 2] y)
    <float[3, 2] table = {1, 2, 3, 4, 5, 6}, float two = {2}, int64[1] axes = {0}>
    { j = Unsqueeze(i, axes) k = Squeeze(j, axes) g = Gather(table, k) y = Mul(g, two) })"));
  CHECK(value_named(graph, "table").kind == ValueKind::parameter);
  CHECK(value_named(graph, "table").trainable);
  CHECK(value_named(graph, "table").source == "table");
  CHECK(value_named(graph, "two").kind == ValueKind::constant);
  for (const Value& value : graph.values()) CHECK(value.name != "axes");  // an attribute
}

TEST_CASE("import: large integer initializers are parameters that nothing trains") {
  pb::ModelProto proto = parse_graph("(int64[8193] x) => (int64[8193] y) { y = Add(x, table) }");
  auto& tensor = *proto.mutable_graph()->add_initializer();
  tensor.set_name("table");
  tensor.set_data_type(pb::TensorProto::INT64);
  tensor.add_dims(8193);  // one element past 64 KiB
  tensor.set_raw_data(std::string(8193 * 8, '\0'));
  const Graph graph = import(proto);
  CHECK(value_named(graph, "table").kind == ValueKind::parameter);
  CHECK_FALSE(value_named(graph, "table").trainable);
}

TEST_CASE("import: weights written as ConstantOfShape are parameters, wherever they are read as weights") {
  const onnx_io::Model model = load(parse_graph(R"((float[2, 8] x) => (float[2, 4] y) {
    s = Constant<value_ints = [8, 4]>()
    w = ConstantOfShape<value = float[1] {0.5}>(s)
    t = Constant<value_ints = [4]>()
    b = ConstantOfShape<value = float[1] {3}>(t)
    m = MatMul(x, w)
    n = Add(m, b)
    z = ConstantOfShape(t)
    c = Less(n, z)
    y = Where(c, n, m) })"));
  CHECK(model.generated_parameters() == std::vector<std::string>{"w", "b"});
  const Graph graph = import(model);
  CHECK(value_named(graph, "w").kind == ValueKind::parameter);
  CHECK(value_named(graph, "w").trainable);
  CHECK(value_named(graph, "b").kind == ValueKind::parameter);
  CHECK(value_named(graph, "z").kind == ValueKind::constant);
  float last = 0;
  model.weights().read("w", 31 * 4, std::as_writable_bytes(std::span(&last, 1)));
  CHECK(last == 0.5F);
}

TEST_CASE("import: constants are the parameters of a file that keeps no weight as an initializer") {
  const std::string nodes = R"({
    w = Constant<value = float[3, 2] {1, 2, 3, 4, 5, 6}>()
    b = Constant<value = float[2] {7, 8}>()
    two = Constant<value = float[1] {2}>()
    g = Gemm(x, w, b)
    h = Mul(g, two)
    y = MatMul(h, v) })";
  const Graph graph = import(parse_graph("(float[2, 3] x, float[2, 2] v) => (float[2, 2] y) " + nodes));
  for (const char* name : {"w", "b"}) {
    CHECK(value_named(graph, name).kind == ValueKind::parameter);
    CHECK(value_named(graph, name).trainable);
  }
  CHECK(value_named(graph, "two").kind == ValueKind::constant);
  const Graph other = import(parse_graph("(float[2, 3] x) => (float[2, 2] y) <float[2, 2] v = {1, 2, 3, 4}> " + nodes));
  CHECK(value_named(other, "v").trainable);
  CHECK(value_named(other, "w").kind == ValueKind::constant);
  const Graph filled = import(parse_graph("(float[2, 3] x) => (float[2, 2] y) " +
                                          std::string(nodes).insert(1,
                                                                    "s = Constant<value_ints = [2, 2]>() "
                                                                    "v = ConstantOfShape(s) ")));
  CHECK(value_named(filled, "v").trainable);
  CHECK(value_named(filled, "w").kind == ValueKind::constant);
}

TEST_CASE("import: a fill of one element is a weight as the bias of a layer and a number in a sum") {
  const onnx_io::Model model = load(parse_graph(R"((float[2, 3] x) => (float[2, 1] y) {
    s = Constant<value_ints = [3, 1]>()
    w = ConstantOfShape<value = float[1] {2}>(s)
    t = Constant<value_ints = [1]>()
    b = ConstantOfShape<value = float[1] {3}>(t)
    one = ConstantOfShape<value = float[1] {1}>(t)
    g = Gemm(x, w, b)
    y = Add(g, one) })"));
  CHECK(model.generated_parameters() == std::vector<std::string>{"w", "b"});
}

TEST_CASE("import: one tied weight is one parameter with two readers") {
  const Graph graph = import(parse_graph(R"((int64[2] i) => (float[2, 3] y)
    <float[3, 2] table = {1, 2, 3, 4, 5, 6}>
    { h = Gather(table, i) t = Transpose<perm = [1, 0]>(table) y = MatMul(h, t) })"));
  int parameters = 0;
  for (const Value& value : graph.values()) parameters += value.kind == ValueKind::parameter;
  CHECK(parameters == 1);
}

TEST_CASE("import: shape arithmetic is folded") {
  const Graph graph = import(parse_graph(R"((float[2, 3, 4] x) => (float[2, 12] y)
    <int64[1] zero = {0}, int64[1] one = {1}, int64[1] minus = {-1}>
    { s = Shape(x) b = Slice(s, zero, one) t = Concat<axis = 0>(b, minus) y = Reshape(x, t) })"));
  CHECK(op_names(graph) == "Reshape");
  CHECK(graph.value(graph.outputs[0].value).shape == Shape{2, 12});
}

TEST_CASE("import: a large constant result is computed by the step, not stored") {
  const Graph graph = import(parse_graph(R"((float[256, 256] x) => (float[256, 256] y)
    { s = Constant<value_ints = [256, 256]>() m = ConstantOfShape<value = float[1] {1}>(s) t = Trilu<upper = 0>(m) y = Where(b, x, x) b = Cast<to = 9>(t) })"));
  CHECK(op_names(graph) == "Trilu Cast Where");
  CHECK(graph.nodes()[0].rate == Rate::per_step);
}

TEST_CASE("import: outputs that are inputs, constants or the same value keep their names") {
  const Graph graph = import(
      parse_graph("(float[2] x) => (float[2] a, float[2] b, int64[1] s) { a = Relu(x) b = Identity(a) s = Shape(x) }"));
  REQUIRE(graph.outputs.size() == 3);
  CHECK(graph.outputs[0].name == "a");
  CHECK(graph.outputs[1].name == "b");
  CHECK(graph.outputs[0].value == graph.outputs[1].value);
  CHECK(graph.value(graph.outputs[2].value).literal.to_integers() == std::vector<int64_t>{2});
}

TEST_CASE("import: nodes without a name are named after their output, duplicates too") {
  pb::ModelProto proto = parse_graph("(float[2] x) => (float[2] c) { a = Relu(x) b = Abs(a) c = Neg(b) }");
  proto.mutable_graph()->mutable_node(1)->set_name("same");
  proto.mutable_graph()->mutable_node(2)->set_name("same");
  const Graph graph = import(proto);
  CHECK(graph.nodes()[0].name == "a");
  CHECK(graph.nodes()[0].origin == "a (Relu)");
  CHECK(graph.nodes()[1].name == "b");
  CHECK(graph.nodes()[2].name == "c");
}

TEST_CASE("import: local functions are inlined, names start with the call's") {
  const pb::ModelProto proto = parse_model(R"(<ir_version: 10, opset_import: ["" : 21, "f" : 1]>
    g (float[2] x) => (float[2] y) { h = f.Twice<k = 3.0>(x) y = f.Twice(h) }
    <opset_import: ["" : 21], domain: "f"> Twice <k: float = 2.0> (a) => (c) { n = Constant<value_float: float = @k>() c = Mul(a, n) })");
  const Graph graph = import(proto);
  REQUIRE(graph.node_count() == 2);
  CHECK(graph.nodes()[0].name == "h/c");
  CHECK(graph.nodes()[0].origin == "h (Twice)");
  CHECK(run(proto, {{"x", floats({2}, {1, 2})}}) == std::vector<double>{6, 12});  // 3 given, 2 by default
}

TEST_CASE("import: an operator without a definition is expanded by the body that ONNX gives") {
  const pb::ModelProto proto = parse_graph(
      "(float[1, 4, 2] x) => (float[1, 4, 2] y) <float[4] s = {1, 1, 1, 1}, float[4] b = {0, 0, 0, 0}> { y = "
      "GroupNormalization<num_groups = 2>(x, s, b) }");
  const Graph graph = import(proto);
  CHECK(graph.node_count() > 1);
  for (const Node& node : graph.nodes()) {
    CHECK(node.name.starts_with("y/"));
    CHECK(node.origin == "y (GroupNormalization)");
  }
  // groups (0 1 2 3) and (4 5 6 7): deviations from the mean +-1.5, +-0.5 over sqrt(1.25 + 1e-5)
  const std::vector<double> result = run(proto, {{"x", counting({1, 4, 2})}});
  CHECK(result[0] == doctest::Approx(-1.341635).epsilon(1e-5));
  CHECK(result[7] == doctest::Approx(1.341635).epsilon(1e-5));
}

TEST_CASE("import: a branch whose condition is known is inlined, one that is not is refused") {
  const auto model = [](const std::string& condition) {
    return parse_graph(
        "(float[2] x, bool c) => (float[2] y) { k = Constant<value = bool {1}>() y = If (" + condition +
        ") <then_branch = t () => (float[2] a) { a = Neg(x) }, else_branch = e () => (float[2] a) { a = Abs(x) }> }");
  };
  const Graph graph = import(model("k"));
  CHECK(op_names(graph) == "Neg");
  CHECK(import_error(model("c")) == "M040");
}

TEST_CASE("import: every unsupported node is named at once, M040") {
  const pb::ModelProto proto =
      parse_graph("(float[2] x) => (float[2] y) { a = Det(x) b = Relu(a) c = Unheard(b) y = Gellu(x) }");
  const auto error = error_of([&] { import(proto); });
  REQUIRE(error);
  CHECK(error->id() == ErrorId::M040);
  const std::string text = error->what();
  CHECK(text.find("3 nodes are not supported") != std::string::npos);
  CHECK(text.find("\"a\" (Det)") != std::string::npos);
  CHECK(text.find("\"c\" (Unheard)") != std::string::npos);
  CHECK(text.find("did you mean Gelu?") != std::string::npos);
  const auto nodes = load(proto).unsupported({}, ReferenceEvaluator());
  REQUIRE(nodes.size() == 3);
  CHECK(nodes[0].op == "Det");
}

TEST_CASE("import: operators of later opsets and other domains are refused with the reason") {
  CHECK(import_message(parse_graph("(float[2] x) => (float[2] y) { y = Gelu(x) }", 19))
            .find("Gelu exists from opset 20 on") != std::string::npos);
  const pb::ModelProto other = parse_model(
      "<ir_version: 10, opset_import: [\"\" : 21, \"my.ops\" : 1]> g (float[2] x) => (float[2] y) { y = my.ops.Relu(x) "
      "}");
  CHECK(import_message(other).find("domain 'my.ops'") != std::string::npos);
  // names of the IR's own ops are no ONNX operators
  CHECK(import_error(parse_graph("(float[2] x) => (float[2] y) { y = Transfer(x) }")) == "M040");
}

TEST_CASE("import: types that mpc has not are refused where they are met, M041") {
  CHECK(import_error(parse_graph("(float[2] x) => (float8e4m3fn[2] y) { y = Cast<to = 17>(x) }")) == "M041");
  CHECK(import_error(parse_graph(
            "(float[2] x) => (float[2] y) { s = Constant<value_string = \"a\">() y = Relu(x) }")) == "M041");
}

TEST_CASE("import: values declared with another type are refused with M034") {
  CHECK(import_error(parse_graph("(float[2] x) => (int8[2] y) { y = Relu(x) }")) == "M034");
  pb::ModelProto proto = parse_graph("(float[2] x) => (float[2] y) { a = Abs(x) y = Relu(a) }");
  auto& info = *proto.mutable_graph()->add_value_info();
  info.set_name("a");
  info.mutable_type()->mutable_tensor_type()->set_elem_type(pb::TensorProto::INT8);
  CHECK(import_error(proto) == "M034");
}

TEST_CASE("import: operands that do not fit are refused with the node's name") {
  CHECK(import_error(parse_graph("(float[2, 8] a, float[7] b) => (float[2, 8] y) { y = Add(a, b) }")) == "M032");
  CHECK(import_error(parse_graph("(float[2] a, int64[2] b) => (float[2] y) { y = Add(a, b) }")) == "M030");
  CHECK(import_error(parse_graph("(float[2, 3] a) => (float[3, 2] y) { y = Transpose<perm = [0, 0]>(a) }")) == "M031");
  CHECK(import_message(parse_graph("(float[2, 8] a, float[7] b) => (float[2, 8] y) { y = Add(a, b) }"))
            .find("node \"y\" (Add)") != std::string::npos);
}

TEST_CASE("import: constant indices and labels out of range are refused with M033") {
  const auto gather = [](int index) {
    return import_error(parse_graph("(float[5] x) => (float[1] y) <int64[1] i = {" + std::to_string(index) +
                                    "}> { y = Gather(x, i) }"));
  };
  CHECK(gather(4) == "none");
  CHECK(gather(-5) == "none");
  CHECK(gather(5) == "M033");
  CHECK(gather(-6) == "M033");
  const auto loss = [](int label) {
    return import_error(parse_graph("(float[1, 3] x) => (float y) <int64[1] l = {" + std::to_string(label) +
                                    "}> { y = SoftmaxCrossEntropyLoss<ignore_index = 9>(x, l) }"));
  };
  CHECK(loss(2) == "none");
  CHECK(loss(3) == "M033");
  CHECK(loss(-1) == "M033");
  CHECK(loss(9) == "none");
  CHECK(import_error(parse_graph("(float[2, 3] x) => (float[1] y) <int64[1, 2] i = {1, 3}> { y = GatherND(x, i) }")) ==
        "M033");
}

TEST_CASE("import: dropout is nothing in inference and an op with its own number in training") {
  const pb::ModelProto proto =
      parse_graph("(float[2] x) => (float[2] y) <float r = {0.25}> { a = Dropout(x, r) y = Dropout(a) }");
  CHECK(import(proto).node_count() == 0);
  ImportOptions options;
  options.mode = ImportOptions::Mode::training;
  const Graph graph = import(proto, options);
  REQUIRE(op_names(graph) == "Dropout Dropout");
  CHECK(graph.nodes()[0].attributes.number("ratio") == 0.25);
  CHECK(graph.nodes()[1].attributes.number("ratio") == 0.5);
  CHECK(graph.nodes()[0].attributes.integer("rng") != graph.nodes()[1].attributes.integer("rng"));
  CHECK(import_error(parse_graph("(float[2] x) => (float[2] y, bool[2] m) { y, m = Dropout(x) }"), options) == "M046");
  CHECK(import_error(parse_graph("(float[2] x) => (float[2] y) { y, m = Dropout(x) }"), options) == "none");
  CHECK(import_error(parse_graph("(float[2] x) => (float[2] y) { a, m = Dropout(x) n = Not(m) y = Where(n, a, x) }"),
                     options) == "M046");
  // A graph within a node reads it too.
  CHECK(import_error(
            parse_graph("(float[2] x) => (float[2] y) <bool c = {1}> { a, m = Dropout(x) y = If(c) <then_branch = t "
                        "() => (float[2] r) { r = Where(m, a, x) }, else_branch = e () => (float[2] r) { r = "
                        "Identity(a) }> }"),
            options) == "M046");
}

TEST_CASE("import: numbers that torch.onnx wrote as initializers are constants, parameters are not") {
  const auto parameters = [](const std::string& name, const std::string& body, const std::string& producer) {
    pb::ModelProto proto = parse_graph("(float[2] x) => (float[2] y) <float[1] " + name + " = {0.5}> { " + body + " }");
    proto.set_producer_name(producer);
    const Graph graph = import(proto);
    return std::ranges::count(graph.values(), ValueKind::parameter, &Value::kind);
  };
  CHECK(parameters("val_72", "a = Mul(x, val_72) y = Div(a, val_72)", "pytorch") == 0);
  CHECK(parameters("val_72", "y = Mul(x, val_72)", "elsewhere") == 1);
  CHECK(parameters("alpha", "y = Mul(x, alpha)", "pytorch") == 1);
  CHECK(parameters("val_scale", "y = Mul(x, val_scale)", "pytorch") == 1);
  CHECK(parameters("val_20", "y = PRelu(x, val_20)", "pytorch") == 1);
  CHECK(parameters("val_20", "a = Mul(x, val_20) y = PRelu(a, val_20)", "pytorch") == 1);
  CHECK(parameters("val_20", "y = Add(x, val_20)", "pytorch") == 1);  // the bias of a layer with one output

  const auto of_norm = [](const std::string& scale, const std::string& numbers) {
    pb::ModelProto proto =
        parse_graph("(float[2,2,3] x) => (float[2,2,3] y) <float[2] " + scale + " = " + numbers +
                    ", float[2] bias = {0, 0}> { y = InstanceNormalization(x, " + scale + ", bias) }");
    proto.set_producer_name("pytorch");
    const Graph graph = import(proto);
    return std::ranges::count(graph.values(), ValueKind::parameter, &Value::kind);
  };
  CHECK(of_norm("val_9", "{1, 1}") == 1);  // bias alone
  CHECK(of_norm("val_9", "{1, 2}") == 2);
  CHECK(of_norm("norm_weight", "{1, 1}") == 2);

  const auto of_mask = [](const std::string& name, float masked, const std::string& op) {
    pb::ModelProto proto = parse_graph("(float[2] x) => (float[2] y) <float[2] " + name + " = {0, 0}> { y = " + op +
                                       "(x, " + name + ") }");
    proto.set_producer_name("pytorch");
    pb::TensorProto& tensor = *proto.mutable_graph()->mutable_initializer(0);
    tensor.clear_raw_data();
    tensor.clear_float_data();
    tensor.add_float_data(0);
    tensor.add_float_data(masked);
    const Graph graph = import(proto);
    return std::ranges::count(graph.values(), ValueKind::parameter, &Value::kind);
  };
  constexpr float kLowest = std::numeric_limits<float>::lowest();
  CHECK(of_mask("val_56", kLowest, "Add") == 0);
  CHECK(of_mask("val_56", -std::numeric_limits<float>::infinity(), "Add") == 0);
  CHECK(of_mask("val_56", -1e9F, "Add") == 1);
  CHECK(of_mask("val_56", kLowest, "Sub") == 1);
  CHECK(of_mask("bias", kLowest, "Add") == 1);
}

TEST_CASE("import: buffers, masks and tables of positions are not trained") {
  const auto is_trained = [](const pb::ModelProto& proto, const std::string& name) {
    ImportOptions options;
    options.mode = ImportOptions::Mode::training;
    const Graph graph = import(proto, options);
    const auto value = std::ranges::find(graph.values(), name, &Value::source);
    REQUIRE(value != graph.values().end());
    return value->trainable;
  };
  // What torch.export says of a value counts, whatever is in it.
  const auto marked = [&](const std::string& kind) {
    pb::ModelProto proto = parse_graph("(float[2] x) => (float[2] y) <float[2] t = {3, 4}> { y = Mul(x, t) }");
    pb::ValueInfoProto& info = *proto.mutable_graph()->add_value_info();
    info.set_name("t");
    info.mutable_type()->mutable_tensor_type()->set_elem_type(pb::TensorProto::FLOAT);
    info.mutable_type()->mutable_tensor_type()->mutable_shape()->add_dim()->set_dim_value(2);
    auto& property = *info.add_metadata_props();
    property.set_key("pkg.torch.export.graph_signature.InputSpec.kind");
    property.set_value(kind);
    return is_trained(proto, "t");
  };
  CHECK(marked("PARAMETER"));
  CHECK(!marked("BUFFER"));
  CHECK(!marked("CONSTANT_TENSOR"));
  CHECK(marked("something else"));

  const auto read_by = [&](const std::string& op, const std::string& numbers) {
    return is_trained(
        parse_graph("(float[2, 2] x) => (float[2, 2] y) <float[2, 2] t = " + numbers + "> { y = " + op + "(x, t) }"),
        "t");
  };
  CHECK(!read_by("Add", "{0, -1000000000.0, 0, 0}"));
  CHECK(!read_by("Add", "{-10000.0, -10000.0, 0, -65504.0}"));
  CHECK(read_by("Add", "{0, -1000000000.0, 0.5, 0}"));  // a number that is neither: no mask
  CHECK(read_by("Add", "{0, 0, 0, 0}"));                // a bias before its training
  CHECK(read_by("Mul", "{0, -1000000000.0, 0, 0}"));

  // Rotary positions: cos and sin of 0 and 1, of 0 and 2.
  const auto rotary = [&](const std::string& sine, const std::string& which) {
    return is_trained(
        parse_graph("(float[2, 2] x) => (float[2, 2] y) <float[2, 2] c = {1, 1, 0.540302306, -0.416146837}, "
                    "float[2, 2] s = " +
                    sine + "> { a = Mul(x, c) b = Mul(x, s) y = Add(a, b) }"),
        which);
  };
  CHECK(!rotary("{0, 0, 0.841470985, 0.909297427}", "c"));
  CHECK(!rotary("{0, 0, 0.841470985, 0.909297427}", "s"));
  CHECK(rotary("{0, 0, 0.8, 0.909297427}", "c"));
  CHECK(rotary("{0, 0, 0.8, 0.909297427}", "s"));
}

TEST_CASE("import: batch normalization updates its running averages in training") {
  const pb::ModelProto proto = parse_graph(R"((float[2, 3, 4] x) => (float[2, 3, 4] y)
    <float[3] s = {1, 1, 1}, float[3] b = {0, 0, 0}, float[3] mean = {0, 0, 0}, float[3] var = {1, 1, 1}>
    { y = BatchNormalization(x, s, b, mean, var) })");
  const Graph inference = import(proto);
  CHECK(op_names(inference) == "BatchNormalization");
  CHECK(inference.updates.empty());
  CHECK(value_named(inference, "s").trainable);
  CHECK_FALSE(value_named(inference, "mean").trainable);
  ImportOptions options;
  options.mode = ImportOptions::Mode::training;
  const Graph training = import(proto, options);
  CHECK(op_names(training) == "BatchNormalizationTraining");
  REQUIRE(training.updates.size() == 2);
  CHECK(training.value(training.updates[0].persistent).name == "mean");
  CHECK(training.value(training.updates[1].persistent).name == "var");
  CHECK_FALSE(value_named(training, "var").trainable);
  CHECK_FALSE(find_violation(training));
}

TEST_CASE("import: a classifier of another image size is refused with the size that fits, where there is one") {
  // Two convolutions of stride 2 and a classifier with `features` inputs; the image is h x w.
  const auto hint = [](const std::string& h, const std::string& w, int features) {
    const std::string text = import_message(
        parse_graph("(float[2, 3, " + h + ", " + w +
                    "] x) => (float[2, n] y) { k1 = ConstantOfShape(s1) k2 = "
                    "ConstantOfShape(s2) w = ConstantOfShape(s3) s1 = Constant<value_ints = [4, 3, 3, 3]>() s2 = "
                    "Constant<value_ints = [8, 4, 3, 3]>() s3 = Constant<value_ints = [" +
                    std::to_string(features) +
                    ", 5]>() a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, k1) b = "
                    "Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(a, k2) f = Flatten(b) y = Gemm(f, w) }"));
    const size_t at = text.find("an input");
    return at == std::string::npos ? "" : text.substr(at);
  };
  // 8 channels of ceil(h / 4) x ceil(w / 4): 2 x 2 = 32 features from 5, 200 = 8 x 5 x 5 from 17.
  CHECK(hint("32", "32", 32) == "an input \"x\" of 5x5 instead of 32x32 fits");
  CHECK(hint("8", "8", 200) == "an input \"x\" of 17x17 instead of 8x8 fits");
  // In the ratio of the input, 3 to 2: 9 x 6 becomes 5 x 3 and then 3 x 2, 6 positions.
  CHECK(hint("24", "16", 48) == "an input \"x\" of 9x6 instead of 24x16 fits");
  // No square has 8 x 3 features, and no image at all has 33.
  CHECK(hint("32", "32", 24) == "");
  CHECK(hint("8", "8", 33) == "");
  // Nothing to vary: the features are the input.
  CHECK(import_message(parse_graph("(float[2, 6] x) => (float[2, 3] y) <float[4, 3] w = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, "
                                   "1, 1}> { y = Gemm(x, w) }"))
            .find("an input") == std::string::npos);
}

TEST_CASE("import: running averages that another node uses too are refused in training, naming both nodes") {
  const auto message = [](const std::string& nodes, ImportOptions::Mode mode) {
    ImportOptions options;
    options.mode = mode;
    const pb::ModelProto proto = parse_graph(R"((float[2, 3, 4] x) => (float[2, 3, 4] y)
    <float[3] s = {1, 1, 1}, float[3] b = {0, 0, 0}, float[3] mean = {0, 0, 0}, float[3] var = {1, 1, 1}> { )" +
                                             nodes + " }");
    return import_error(proto, options) == "none" ? "accepted" : import_message(proto, options);
  };
  const auto training = ImportOptions::Mode::training;
  const std::string twice =
      "[first] a = BatchNormalization(x, s, b, mean, var) [second] y = BatchNormalization(a, s, b, mean, var)";
  CHECK(message(twice, ImportOptions::Mode::inference) == "accepted");
  const std::string refused = message(twice, training);
  CHECK(
      refused.find("node second (BatchNormalization): uses \"mean\", which node first (BatchNormalization) updates") !=
      std::string::npos);
  // Also where the other node comes first or is the same one: what it read is gone when its gradient is made.
  CHECK(message("k = Constant<value_ints = [3, 1]>() [read] r = Reshape(mean, k) a = Add(x, r) "
                "[norm] y = BatchNormalization(a, s, b, mean, var)",
                training)
            .find("uses \"mean\", which node norm (BatchNormalization) updates") != std::string::npos);
  CHECK(message("[norm] y = BatchNormalization(x, s, b, mean, mean)", training)
            .find("node norm (BatchNormalization): uses \"mean\"") != std::string::npos);
}

TEST_CASE("import: the same model gives the same graph each time") {
  const onnx_io::Model model =
      load(parse_graph("(float[2, 4] x) => (float[2, 4] y) { a = Softmax(x) b = Gelu(a) y = LayerNormalization(b, s) s "
                       "= Constant<value_floats = [1.0, 1.0, 1.0, 1.0]>() }"));
  const Graph first = import(model);
  const Graph second = import(model);
  REQUIRE(first.value_count() == second.value_count());
  for (int i = 0; i < first.value_count(); ++i) CHECK(first.value(ValueId(i)).name == second.value(ValueId(i)).name);
}

}  // namespace mpc::test
