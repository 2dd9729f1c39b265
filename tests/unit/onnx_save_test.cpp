#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/unit/onnx_support.h"

// Writing models back with other weights.

namespace mpc::test {
namespace {

/// Gives every weight the same number.
class Constant : public WeightSource {
 public:
  explicit Constant(float number) : number_(number) {}
  void read(const std::string&, int64_t offset, std::span<std::byte> out) const override {
    for (size_t i = 0; i < out.size(); ++i) {
      std::memcpy(&out[i],
                  reinterpret_cast<const std::byte*>(&number_) + (static_cast<size_t>(offset) + i) % sizeof(number_),
                  1);
    }
  }
  DType dtype(const std::string&) const override { return DType::f32; }

 private:
  float number_;
};

std::vector<float> weight(const onnx_io::Model& model, const std::string& name, size_t count) {
  std::vector<float> numbers(count);
  model.weights().read(name, 0, std::as_writable_bytes(std::span(numbers)));
  return numbers;
}

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

const char* const kTwoWeights =
    "(float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}> { c = Add(x, a) y = Mul(c, b) }";

}  // namespace

TEST_CASE("save: the named weights change, everything else stays") {
  const TemporaryFolder folder;
  const onnx_io::Model model = load(parse_graph(kTwoWeights, 17));
  model.save(folder / "out.onnx", {"b"}, Constant(9));
  const onnx_io::Model saved = onnx_io::Model::load(folder / "out.onnx");
  CHECK(weight(saved, "a", 2) == std::vector<float>{1, 2});
  CHECK(weight(saved, "b", 2) == std::vector<float>{9, 9});
  CHECK(saved.info().opset == 17);
  CHECK(op_names(import(saved)) == "Add Mul");
  CHECK(folder.entries() == std::vector<std::string>{"out.onnx"});
}

TEST_CASE("save: nothing replaced gives the same bytes") {
  const TemporaryFolder folder;
  write_proto(parse_graph(kTwoWeights), folder / "in.onnx");
  onnx_io::Model::load(folder / "in.onnx").save(folder / "out.onnx", {}, Constant(0));
  CHECK(content(folder / "in.onnx") == content(folder / "out.onnx"));
}

TEST_CASE("save: a weight that the model has not is refused, and nothing is written") {
  const TemporaryFolder folder;
  const onnx_io::Model model = load(parse_graph(kTwoWeights));
  CHECK(error_id([&] { model.save(folder / "out.onnx", {"z"}, Constant(0)); }) == "M023");
  CHECK(error_id([&] { model.save(folder / "absent/out.onnx", {"b"}, Constant(0)); }) == "M011");
  CHECK(folder.entries().empty());
}

TEST_CASE("save: external data is written beside the file, replaced or not") {
  const TemporaryFolder folder;
  pb::ModelProto proto = parse_graph("(float[512] x) => (float[512] y) { c = Add(x, a) y = Mul(c, b) }");
  for (const char* name : {"a", "b"}) {
    auto& tensor = *proto.mutable_graph()->add_initializer();
    tensor.set_name(name);
    tensor.set_data_type(pb::TensorProto::FLOAT);
    tensor.add_dims(512);
    tensor.set_data_location(pb::TensorProto::EXTERNAL);
    auto& location = *tensor.add_external_data();
    location.set_key("location");
    location.set_value("in.bin");
    auto& offset = *tensor.add_external_data();
    offset.set_key("offset");
    offset.set_value(*name == 'a' ? "0" : "2048");
  }
  std::vector<float> numbers(1024, 1.5F);
  write_bytes(folder / "in.bin",
              std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float)));
  write_proto(proto, folder / "in.onnx");
  const onnx_io::Model model = onnx_io::Model::load(folder / "in.onnx");
  std::filesystem::create_directory(folder / "out");
  model.save(folder / "out/m.onnx", {"b"}, Constant(9));
  CHECK(std::filesystem::file_size(folder / "out/m.onnx.data") == 4096);
  const onnx_io::Model saved = onnx_io::Model::load(folder / "out/m.onnx");
  CHECK(weight(saved, "a", 512) == std::vector<float>(512, 1.5F));
  CHECK(weight(saved, "b", 512) == std::vector<float>(512, 9));
}

TEST_CASE("save: weights that protobuf cannot hold go to a file beside the model, both whole or none") {
  const TemporaryFolder folder;
  // a: 2048 bytes, b: 4096, small: 8, which stays where tools look for shapes.
  pb::ModelProto proto = parse_graph(
      "(float[512] x) => (float[2, 512] y) <float[2] small = {5, 6}> { c = Add(x, a) d = Mul(c, b) k = "
      "Constant<value_ints = [2, 1]>() s = Reshape(small, k) y = Add(d, s) }");
  const auto add = [&](const char* name, std::vector<int64_t> dims, float number) {
    auto& tensor = *proto.mutable_graph()->add_initializer();
    tensor.set_name(name);
    tensor.set_data_type(pb::TensorProto::FLOAT);
    int64_t count = 1;
    for (const int64_t dim : dims) {
      tensor.add_dims(dim);
      count *= dim;
    }
    for (int64_t i = 0; i < count; ++i) tensor.add_float_data(number);
  };
  add("a", {512}, 1.5F);
  add("b", {2, 512}, 2.5F);
  const onnx_io::Model model = load(proto);
  constexpr int64_t kBytes = 2048 + 4096 + 8;
  model.save(folder / "in.onnx", {"b"}, Constant(9), kBytes);
  CHECK(folder.entries() == std::vector<std::string>{"in.onnx"});
  model.save(folder / "out.onnx", {"b"}, Constant(9), kBytes - 1);
  CHECK(folder.entries() == std::vector<std::string>{"in.onnx", "out.onnx", "out.onnx.data"});
  CHECK(std::filesystem::file_size(folder / "out.onnx.data") == 2048 + 4096);
  CHECK(std::filesystem::file_size(folder / "out.onnx") < 1024);
  const onnx_io::Model saved = onnx_io::Model::load(folder / "out.onnx");
  CHECK(weight(saved, "a", 512) == std::vector<float>(512, 1.5F));
  CHECK(weight(saved, "b", 1024) == std::vector<float>(1024, 9));
  CHECK(weight(saved, "small", 2) == std::vector<float>{5, 6});
  CHECK(op_names(import(saved)) == op_names(import(model)));

  // Saving a model over itself reads the old data while the new is written; a failure leaves both as they were.
  const std::string old_model = content(folder / "out.onnx");
  const std::string old_data = content(folder / "out.onnx.data");
  class Failing : public WeightSource {
    void read(const std::string&, int64_t, std::span<std::byte>) const override {
      throw Error(ErrorId::M070, "", "no memory");
    }
    DType dtype(const std::string&) const override { return DType::f32; }
  };
  CHECK(error_id([&] { saved.save(folder / "out.onnx", {"b"}, Failing(), 0); }) == "M070");
  std::filesystem::create_directory(folder / "taken.onnx");
  CHECK(error_id([&] { saved.save(folder / "taken.onnx", {"b"}, Constant(1), 0); }) == "M012");
  CHECK(folder.entries() == std::vector<std::string>{"in.onnx", "out.onnx", "out.onnx.data", "taken.onnx"});
  CHECK(content(folder / "out.onnx") == old_model);
  CHECK(content(folder / "out.onnx.data") == old_data);
  saved.save(folder / "out.onnx", {"b"}, Constant(4), 0);
  const onnx_io::Model again = onnx_io::Model::load(folder / "out.onnx");
  CHECK(weight(again, "a", 512) == std::vector<float>(512, 1.5F));
  CHECK(weight(again, "b", 1024) == std::vector<float>(1024, 4));
  CHECK(error_id([&] { model.save(folder / "\xff.onnx", {}, Constant(0), 0); }) == "M012");
}

TEST_CASE("save: a generated parameter becomes an initializer") {
  const TemporaryFolder folder;
  const onnx_io::Model model =
      load(parse_graph("(float[2, 8] x) => (float[2, 4] y) { s = Constant<value_ints = [8, 4]>() w = "
                       "ConstantOfShape(s) y = MatMul(x, w) }"));
  model.save(folder / "out.onnx", {"w"}, Constant(2));
  const onnx_io::Model saved = onnx_io::Model::load(folder / "out.onnx");
  CHECK(saved.generated_parameters().empty());
  REQUIRE(saved.initializers().size() == 1);
  CHECK(saved.initializers()[0].shape == Shape{8, 4});
  CHECK(weight(saved, "w", 32) == std::vector<float>(32, 2));
  CHECK(import_error(parse_graph("(float[2] x) => (float[2] y) { y = Relu(x) }")) == "none");
}

}  // namespace mpc::test
