#include <doctest/doctest.h>

#include "tests/unit/onnx_support.h"

// What load() refuses: files that are no models, and models that are not consistent.

namespace mpc::test {
namespace {

pb::ModelProto relu() {
  return parse_graph("(float[2] x) => (float[2] y) { y = Relu(x) }");
}

std::string load_bytes_error(std::string_view bytes) {
  const TemporaryFolder folder;
  write_bytes(folder / "m.onnx", bytes);
  return error_id([&] { onnx_io::Model::load(folder / "m.onnx"); });
}

}  // namespace

TEST_CASE("load: a valid model says what it is") {
  pb::ModelProto proto = parse_graph(
      "(float[N, 4] x) => (float[N, 3] y) <float[4, 3] w = {0,0,0,0,0,0,0,0,0,0,0,0}> { y = MatMul(x, w) }");
  auto& property = *proto.add_metadata_props();
  property.set_key("mpc.default_batch");
  property.set_value("64");
  const onnx_io::Model model = load(proto);
  CHECK(model.info().opset == 21);
  CHECK(model.info().ir_version == 10);
  CHECK(model.info().graph_name == "g");
  CHECK(model.info().sha256.size() == 64);
  CHECK(model.info().metadata.at("mpc.default_batch") == "64");
  REQUIRE(model.info().inputs.size() == 1);
  CHECK(model.info().inputs[0].dims[0].symbol == "N");
  CHECK(model.info().inputs[0].dims[1].value == 4);
  REQUIRE(model.initializers().size() == 1);
  CHECK(model.initializers()[0].shape == Shape{4, 3});
}

TEST_CASE("load: bytes that are no protobuf are refused with M020") {
  const std::string good = relu().SerializeAsString();
  CHECK(load_bytes_error(good) == "none");
  CHECK(load_bytes_error("") == "M020");
  CHECK(load_bytes_error("\x08") == "M020");
  CHECK(load_bytes_error("PK\x03\x04") == "M020");
  CHECK(load_bytes_error(std::string_view(good).substr(0, good.size() - 1)) == "M020");
  CHECK(load_bytes_error("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01") == "M020");  // a varint of eleven bytes
  CHECK(error_id([] { onnx_io::Model::load("/nowhere/m.onnx"); }) == "M010");
}

TEST_CASE("load: names that are not UTF-8 are refused with M020") {
  pb::ModelProto proto = relu();
  proto.mutable_graph()->mutable_node(0)->set_name("\xff\xfe");
  CHECK(load_error(proto) == "M020");
}

TEST_CASE("load: an inconsistent header is refused with M021, one of the future with M042") {
  const auto with = [](auto change) {
    pb::ModelProto proto = relu();
    change(proto);
    return load_error(proto);
  };
  CHECK(with([](auto& p) { p.set_ir_version(0); }) == "M021");
  CHECK(with([](auto& p) { p.set_ir_version(-5); }) == "M021");
  CHECK(with([](auto& p) { p.set_ir_version(13); }) == "none");
  CHECK(with([](auto& p) { p.set_ir_version(INT64_MAX); }) == "M042");
  CHECK(with([](auto& p) { p.clear_opset_import(); }) == "M021");
  CHECK(with([](auto& p) { p.mutable_opset_import(0)->set_version(0); }) == "M021");
  CHECK(with([](auto& p) { p.mutable_opset_import(0)->set_version(27); }) == "none");
  CHECK(with([](auto& p) { p.mutable_opset_import(0)->set_version(28); }) == "M042");
  CHECK(with([](auto& p) { p.add_opset_import()->set_version(13); }) == "M021");
  CHECK(with([](auto& p) { p.add_opset_import()->set_version(21); }) == "none");
  CHECK(with([](auto& p) { p.mutable_graph()->mutable_node(0)->set_domain("nobody.imports.this"); }) == "M021");
}

TEST_CASE("load: an operator that its opset withdrew is refused with M042") {
  CHECK(load_error(parse_graph("(float[1,1,2,2] x, float[4] s) => (float[1,1,4,4] y) { y = Upsample(x, s) }", 10)) ==
        "M042");
}

TEST_CASE("load: an inconsistent graph is refused with M022") {
  const auto graph_error = [](const std::string& text) { return load_error(parse_graph(text)); };
  CHECK(graph_error("(float[2] x) => (float[2] y) { y = Relu(nothing) }") == "M022");
  CHECK(graph_error("(float[2] x) => (float[2] z) { y = Relu(x) }") == "M022");
  CHECK(graph_error("(float[2] x) => (float[2] y) { y = Relu(x) y = Abs(x) }") == "M022");
  CHECK(graph_error("(float[2] x) => (float[2] x) { x = Relu(x) }") == "M022");
  CHECK(graph_error("(float[2] x) => (float[2] a) { a = Add(x, b) b = Relu(a) }") == "M022");
  CHECK(graph_error("(float[2] x) => (float[2] y) { y = Relu(x, x) }") == "M022");
  CHECK(graph_error("(float[2] x) => (float[2] y) { y, z = Relu(x) }") == "M022");
  CHECK(graph_error("(float[2] x) => () { y = Relu(x) }") == "M022");
  pb::ModelProto proto = relu();
  proto.mutable_graph()->mutable_node(0)->clear_op_type();
  CHECK(load_error(proto) == "M022");
  proto = relu();
  proto.clear_graph();
  CHECK(load_error(proto) == "M022");
  proto = relu();
  proto.mutable_graph()->mutable_input(0)->mutable_type()->mutable_tensor_type()->set_elem_type(99);
  CHECK(load_error(proto) == "M022");
  proto = relu();
  proto.mutable_graph()
      ->mutable_input(0)
      ->mutable_type()
      ->mutable_tensor_type()
      ->mutable_shape()
      ->mutable_dim(0)
      ->set_dim_value(-2);
  CHECK(load_error(proto) == "M022");
}

TEST_CASE("load: nodes that are out of order are put into it") {
  const Graph graph = import(parse_graph("(float[2] x) => (float[2] y) { y = Relu(a) a = Abs(x) }"));
  CHECK(op_names(graph) == "Abs Relu");
}

TEST_CASE("load: inconsistent initializers are refused with M023") {
  const auto with = [](auto change) {
    pb::ModelProto proto = parse_graph("(float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }");
    change(*proto.mutable_graph()->mutable_initializer(0), proto);
    return load_error(proto);
  };
  CHECK(with([](auto&, auto&) {}) == "none");
  CHECK(with([](auto& t, auto&) { t.add_float_data(3); }) == "M023");
  CHECK(with([](auto& t, auto&) { t.clear_float_data(); }) == "M023");
  CHECK(with([](auto& t, auto&) { t.set_raw_data("12345678"); }) == "M023");  // beside float_data
  CHECK(with([](auto& t, auto&) {
          t.clear_float_data();
          t.set_raw_data("12345678");
        }) == "none");
  CHECK(with([](auto& t, auto&) {
          t.clear_float_data();
          t.set_raw_data("1234567");
        }) == "M023");
  CHECK(with([](auto& t, auto&) {
          t.clear_float_data();
          t.set_raw_data("123456789");
        }) == "M023");
  CHECK(with([](auto& t, auto&) { t.set_data_type(0); }) == "M023");
  CHECK(with([](auto& t, auto&) { t.set_data_type(-3); }) == "M023");
  CHECK(with([](auto& t, auto&) { t.set_data_type(pb::TensorProto::INT64); }) == "M023");  // data in float_data
  CHECK(with([](auto& t, auto&) { t.set_dims(0, -2); }) == "M023");
  CHECK(with([](auto& t, auto&) {
          t.set_dims(0, int64_t{1} << 62);
          t.add_dims(8);
        }) == "M051");  // wraps to 0
  CHECK(with([](auto& t, auto& p) { *p.mutable_graph()->add_initializer() = t; }) == "M022");
  CHECK(with([](auto& t, auto&) { t.clear_name(); }) == "M023");
  // an input of the name is the older form; it must agree
  const auto input = [](int32_t type, int64_t dim) {
    return [=](auto&, auto& p) {
      auto& value = *p.mutable_graph()->add_input();
      value.set_name("w");
      value.mutable_type()->mutable_tensor_type()->set_elem_type(type);
      value.mutable_type()->mutable_tensor_type()->mutable_shape()->add_dim()->set_dim_value(dim);
    };
  };
  CHECK(with(input(pb::TensorProto::FLOAT, 2)) == "none");
  CHECK(with(input(pb::TensorProto::FLOAT, 3)) == "M023");
  CHECK(with(input(pb::TensorProto::INT64, 2)) == "M023");
}

TEST_CASE("load: sparse initializers are made dense, inconsistent ones are refused with M023") {
  const auto with = [](std::vector<int64_t> indices, std::vector<int64_t> dims) {
    pb::ModelProto proto = parse_graph("(float[4] x) => (float[4] y) { y = Add(x, w) }");
    auto& sparse = *proto.mutable_graph()->add_sparse_initializer();
    sparse.mutable_values()->set_name("w");
    sparse.mutable_values()->set_data_type(pb::TensorProto::FLOAT);
    sparse.mutable_values()->add_dims(2);
    sparse.mutable_values()->add_float_data(5);
    sparse.mutable_values()->add_float_data(7);
    sparse.mutable_indices()->set_data_type(pb::TensorProto::INT64);
    sparse.mutable_indices()->add_dims(static_cast<int64_t>(indices.size()));
    for (const int64_t index : indices) sparse.mutable_indices()->add_int64_data(index);
    for (const int64_t dim : dims) sparse.add_dims(dim);
    return proto;
  };
  CHECK(run(with({1, 3}, {4}), {{"x", counting({4})}}) == std::vector<double>{0, 6, 2, 10});
  CHECK(load_error(with({-1, 3}, {4})) == "M023");
  CHECK(load_error(with({1, 4}, {4})) == "M023");
  CHECK(load_error(with({1}, {4})) == "M023");
  CHECK(load_error(with({1, 3}, {int64_t{1} << 40})) == "M051");
}

TEST_CASE("load: attributes are checked against the operator's schema, M031") {
  const auto graph_error = [](const std::string& text) { return load_error(parse_graph(text)); };
  CHECK(graph_error("(float[2,3] x) => (float[3,2] y) { y = Transpose<perm = [1, 0]>(x) }") == "none");
  CHECK(graph_error("(float[2,3] x) => (float[3,2] y) { y = Transpose<perm = 1>(x) }") == "M031");
  CHECK(graph_error("(float[2,3] x) => (float[3,2] y) { y = Transpose<prem = [1, 0]>(x) }") == "M031");
  CHECK(graph_error("(float[2] x) => (float[4] y) { y = Concat(x, x) }") == "M031");
  pb::ModelProto proto = parse_graph("(float[2,3] x) => (float[3,2] y) { y = Transpose<perm = [1, 0]>(x) }");
  auto& attribute = *proto.mutable_graph()->mutable_node(0)->mutable_attribute(0);
  attribute.set_f(1.0F);
  CHECK(load_error(proto) == "M031");  // ints and a float
  attribute.clear_f();
  attribute.clear_name();
  CHECK(load_error(proto) == "M031");
}

TEST_CASE("load: inconsistent functions are refused with M025") {
  const auto model = [](const std::string& call, const std::string& functions) {
    return parse_model("<ir_version: 10, opset_import: [\"\" : 21, \"f\" : 1]> g (float[2] x) => (float[2] y) { " +
                       call + " } " + functions);
  };
  const std::string head = "<opset_import: [\"\" : 21, \"f\" : 1], domain: \"f\"> ";
  const std::string good = head + "A (a) => (b) { b = Relu(a) }";
  CHECK(load_error(model("y = f.A(x)", good)) == "none");
  CHECK(load_error(model("y = f.A(x)", good + good)) == "M025");
  CHECK(load_error(model("y = f.A(x, x)", good)) == "M025");
  CHECK(load_error(model("y = f.A(x)", head + "A (a) => (b) { b = f.A(a) }")) == "M025");
  CHECK(load_error(model("y = f.A(x)", head + "A (a) => (b) { b = f.B(a) }" + head + "B (a) => (b) { b = f.A(a) }")) ==
        "M025");
  CHECK(load_error(model("y = f.A(x)", head + "A (a) => (c) { b = Relu(a) }")) == "M025");
  CHECK(load_error(model("y = f.A(x)", head + "A (a, a) => (b) { b = Relu(a) }")) == "M025");
}

TEST_CASE("load: the message names the file and the node, and stays short") {
  pb::ModelProto proto = relu();
  proto.mutable_graph()->mutable_node(0)->set_input(0, "a\x1b[2Jb\n");
  const auto error = error_of([&] { load(proto); });
  REQUIRE(error);
  const std::string text = error->what();
  CHECK(text.find("model.onnx: node \"y\" (Relu)") != std::string::npos);
  CHECK(text.find('\x1b') == std::string::npos);
  CHECK(text.find('\n') == std::string::npos);
  proto.mutable_graph()->mutable_node(0)->set_input(0, std::string(300'000, 'n'));
  CHECK(error_of([&] { load(proto); })->id() == ErrorId::M051);
  CHECK(std::string_view(error_of([&] { load(proto); })->what()).size() < 2048);
}

}  // namespace mpc::test
