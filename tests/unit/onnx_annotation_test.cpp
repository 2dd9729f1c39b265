#include <doctest/doctest.h>

#include <fstream>

#include "tests/unit/onnx_support.h"

// The standard multi-device fields, written and read.

namespace mpc::test {
namespace {

using Annotation = onnx_io::Model::Annotation;

pb::ModelProto chain() {
  return parse_graph(
      "(float[2, 4] x) => (float[2, 4] d) { a = Relu(x) b = Abs(a) s = Shape(b) c = Neg(b) t = Reshape(c, s) d = "
      "Softmax(t) }");
}

const Annotation kTwoDevices{"mpc-2", {"cuda:0", "cuda:1"}, {{"a", 0}, {"b", 0}, {"c", 1}, {"t", 1}, {"d", 1}}};

pb::ModelProto read_proto(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  pb::ModelProto proto;
  REQUIRE(proto.ParseFromIstream(&file));
  return proto;
}

pb::ModelProto annotated(const pb::ModelProto& proto, const Annotation& annotation) {
  const TemporaryFolder folder;
  load(proto).save_annotated(folder / "out.onnx", annotation);
  return read_proto(folder / "out.onnx");
}

/// The id that annotation() throws after `change` was made to the configuration of node b.
template <class Change>
std::string error_after(Change change) {
  pb::ModelProto proto = annotated(chain(), kTwoDevices);
  change(*proto.mutable_graph()->mutable_node(1)->mutable_device_configurations(0), proto);
  return error_id([&] { load(proto).annotation(); });
}

}  // namespace

TEST_CASE("annotation: every node has its configuration, stage and one placement per output") {
  const pb::ModelProto proto = annotated(chain(), kTwoDevices);
  CHECK(proto.ir_version() == 11);
  REQUIRE(proto.configuration_size() == 1);
  CHECK(proto.configuration(0).name() == "mpc-2");
  CHECK(proto.configuration(0).num_devices() == 2);
  CHECK(proto.configuration(0).device(1) == "cuda:1");
  const int stages[] = {0, 0, 1, 1, 1, 1};  // Shape runs with its reader
  for (int i = 0; i < proto.graph().node_size(); ++i) {
    const auto& node = proto.graph().node(i);
    REQUIRE(node.device_configurations_size() == 1);
    const auto& configuration = node.device_configurations(0);
    CHECK(configuration.configuration_id() == "mpc-2");
    CHECK(configuration.pipeline_stage() == stages[i]);
    REQUIRE(configuration.sharding_spec_size() == 1);
    CHECK(configuration.sharding_spec(0).tensor_name() == node.output(0));
    REQUIRE(configuration.sharding_spec(0).device_size() == 1);
    CHECK(configuration.sharding_spec(0).device(0) == stages[i]);
    CHECK(configuration.sharding_spec(0).sharded_dim_size() == 0);
  }
}

TEST_CASE("annotation: reading gives back what was written, and two plans live in one file") {
  pb::ModelProto proto = annotated(chain(), kTwoDevices);
  const auto read = load(proto).annotation();
  REQUIRE(read);
  CHECK(read->configuration_name == "mpc-2");
  CHECK(read->device_names == kTwoDevices.device_names);
  for (const auto& [node, stage] : kTwoDevices.stage_of_node) CHECK(read->stage_of_node.at(node) == stage);
  const Annotation one{"mpc-1", {"cpu:0"}, {{"a", 0}}};
  proto = annotated(proto, one);
  CHECK(proto.configuration_size() == 2);
  CHECK(proto.graph().node(5).device_configurations_size() == 2);
  CHECK(load(proto).annotation()->stage_of_node.at("d") == 1);  // the first configuration
  proto = annotated(proto, one);                                // written again: replaced, not repeated
  CHECK(proto.configuration_size() == 2);
  CHECK(proto.graph().node(5).device_configurations_size() == 2);
}

TEST_CASE("annotation: a node that became several is in the last of their stages") {
  const pb::ModelProto proto = parse_graph("(float[2] x) => (float[2] y) { y = Sum(x, x, x) }");
  const pb::ModelProto result = annotated(proto, {"mpc-2", {"cpu:0", "cpu:1"}, {{"y", 1}, {"y/1", 0}}});
  CHECK(result.graph().node(0).device_configurations(0).pipeline_stage() == 1);
}

TEST_CASE("annotation: local functions are inlined, so that their nodes may be apart") {
  const pb::ModelProto proto = parse_model(R"(<ir_version: 10, opset_import: ["" : 21, "f" : 1]>
    g (float[2] x) => (float[2] y) { y = f.Two(x) }
    <opset_import: ["" : 21], domain: "f"> Two (a) => (c) { b = Relu(a) c = Abs(b) })");
  const pb::ModelProto result = annotated(proto, {"mpc-2", {"cpu:0", "cpu:1"}, {{"y/b", 0}, {"y/c", 1}}});
  CHECK(result.functions_size() == 0);
  REQUIRE(result.graph().node_size() == 2);
  CHECK(result.graph().node(1).device_configurations(0).pipeline_stage() == 1);
  CHECK(load(result).annotation()->stage_of_node.at("y/c") == 1);
}

TEST_CASE("annotation: stages counted from 1 and nodes without a stage are understood") {
  pb::ModelProto proto = annotated(chain(), kTwoDevices);
  for (auto& node : *proto.mutable_graph()->mutable_node()) {
    auto& configuration = *node.mutable_device_configurations(0);
    configuration.set_pipeline_stage(configuration.pipeline_stage() + 1);
  }
  proto.mutable_graph()->mutable_node(1)->clear_device_configurations();  // b: runs where a does
  const auto read = load(proto).annotation();
  REQUIRE(read);
  CHECK(read->stage_of_node.at("a") == 0);
  CHECK(read->stage_of_node.at("b") == 0);
  CHECK(read->stage_of_node.at("d") == 1);
}

TEST_CASE("annotation: a model without configurations has none") {
  CHECK_FALSE(load(chain()).annotation());
}

TEST_CASE("annotation: inconsistent fields are refused with M026") {
  CHECK(error_after([](auto&, auto&) {}) == "none");
  CHECK(error_after([](auto& c, auto&) { c.set_configuration_id("nobody"); }) == "M026");
  CHECK(error_after([](auto& c, auto&) { c.set_pipeline_stage(3); }) == "M026");
  CHECK(error_after([](auto& c, auto&) { c.set_pipeline_stage(-1); }) == "M026");
  CHECK(error_after([](auto& c, auto&) { c.set_pipeline_stage(2); }) == "M026");  // 0, 1 and 2 of two devices
  CHECK(error_after([](auto& c, auto&) { c.mutable_sharding_spec(0)->set_tensor_name("d"); }) == "M026");
  CHECK(error_after([](auto& c, auto&) { c.mutable_sharding_spec(0)->set_device(0, 2); }) == "M026");
  CHECK(error_after([](auto& c, auto&) { c.mutable_sharding_spec(0)->set_device(0, -1); }) == "M026");
  CHECK(error_after([](auto& c, auto&) { c.mutable_sharding_spec(0)->add_device(0); }) == "M026");
  CHECK(error_after([](auto&, auto& p) { *p.add_configuration() = p.configuration(0); }) == "M026");
  CHECK(error_after([](auto&, auto& p) { p.mutable_configuration(0)->set_num_devices(0); }) == "M026");
  CHECK(error_after([](auto&, auto& p) { p.mutable_configuration(0)->set_num_devices(3); }) == "M026");
  CHECK(error_after([](auto&, auto& p) { p.mutable_configuration(0)->clear_name(); }) == "M026");
  CHECK(error_after([](auto& c, auto& p) { *p.mutable_graph()->mutable_node(1)->add_device_configurations() = c; }) ==
        "M026");
  const auto shard = [](int64_t axis, int64_t shards) {
    return error_after([=](auto& c, auto& p) {
      p.mutable_graph()->mutable_node(1)->set_input(0, "x");
      c.mutable_sharding_spec(0)->set_tensor_name("x");
      auto& dim = *c.mutable_sharding_spec(0)->add_sharded_dim();
      dim.set_axis(axis);
      dim.add_simple_sharding()->set_num_shards(shards);
    });
  };
  CHECK(shard(1, 2) == "none");
  CHECK(shard(-2, 2) == "none");
  CHECK(shard(2, 2) == "M026");
  CHECK(shard(-3, 2) == "M026");
  CHECK(shard(0, 0) == "M026");
}

}  // namespace mpc::test
