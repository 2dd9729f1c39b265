#include "models/builder.h"

#include "compiler/base/checked.h"
#include "compiler/base/error.h"
#include "compiler/base/text.h"

#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <span>
#include <utility>

namespace mpc::zoo {
namespace {

namespace onnx = ONNX_NAMESPACE;

static_assert(std::endian::native == std::endian::little, "ONNX raw data is little-endian");

constexpr int64_t kIrVersion = 10;
constexpr int64_t kIrVersionOfOpset23 = 11;
constexpr int64_t kExternalAlignment = 4096;  // a page, so that each weight can be mapped by itself
constexpr int64_t kElementsPerChunk = 1 << 16;

struct Weight {
  int initializer;  // its index in the graph
  Init init;
  int64_t elements;
};

void set_dims(onnx::TypeProto& type, int32_t element_type, const std::vector<Dim>& dims) {
  auto& tensor = *type.mutable_tensor_type();
  tensor.set_elem_type(element_type);
  auto& shape = *tensor.mutable_shape();
  for (const Dim& dim : dims) {
    if (const auto* number = std::get_if<int64_t>(&dim)) {
      shape.add_dim()->set_dim_value(*number);
    } else {
      shape.add_dim()->set_dim_param(std::get<std::string>(dim));
    }
  }
}

template <class T>
std::string raw_bytes(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

onnx::TensorProto tensor_of(int32_t element_type, const std::vector<int64_t>& dims, std::string bytes) {
  onnx::TensorProto tensor;
  tensor.set_data_type(element_type);
  for (const int64_t dim : dims) tensor.add_dims(dim);
  tensor.set_raw_data(std::move(bytes));
  return tensor;
}

onnx::TensorProto float_tensor(const std::vector<int64_t>& dims, std::span<const float> values) {
  return tensor_of(onnx::TensorProto::FLOAT, dims, raw_bytes(values));
}

onnx::TensorProto int_tensor(const std::vector<int64_t>& dims, std::span<const int64_t> values) {
  return tensor_of(onnx::TensorProto::INT64, dims, raw_bytes(values));
}

struct AttributeSetter {
  onnx::AttributeProto& to;

  void operator()(int64_t value) const {
    to.set_type(onnx::AttributeProto::INT);
    to.set_i(value);
  }
  void operator()(double value) const {
    to.set_type(onnx::AttributeProto::FLOAT);
    to.set_f(static_cast<float>(value));
  }
  void operator()(const std::string& value) const {
    to.set_type(onnx::AttributeProto::STRING);
    to.set_s(value);
  }
  void operator()(const std::vector<int64_t>& values) const {
    to.set_type(onnx::AttributeProto::INTS);
    for (const int64_t value : values) to.add_ints(value);
  }
  void operator()(const std::vector<double>& values) const {
    to.set_type(onnx::AttributeProto::FLOATS);
    for (const double value : values) to.add_floats(static_cast<float>(value));
  }
  void operator()(const std::vector<std::string>& values) const {
    to.set_type(onnx::AttributeProto::STRINGS);
    for (const std::string& value : values) to.add_strings(value);
  }
};

void set_tensor_attribute(onnx::NodeProto& node, onnx::TensorProto tensor) {
  auto& attribute = *node.add_attribute();
  attribute.set_name("value");
  attribute.set_type(onnx::AttributeProto::TENSOR);
  *attribute.mutable_t() = std::move(tensor);
}

void add_external_entry(onnx::TensorProto& tensor, const std::string& key, const std::string& value) {
  auto& entry = *tensor.add_external_data();
  entry.set_key(key);
  entry.set_value(value);
}

/// Lets protobuf write into an AtomicFile. The error is kept and not thrown: the adaptor writes in its destructor too.
class FileStream : public google::protobuf::io::CopyingOutputStream {
 public:
  explicit FileStream(AtomicFile& file) : file_(file) {}
  bool Write(const void* buffer, int byte_count) override {
    if (error_) return false;
    try {
      file_.append(std::string_view(static_cast<const char*>(buffer), static_cast<size_t>(byte_count)));
    } catch (const Error& error) {
      error_ = error;
    }
    return !error_;
  }
  const std::optional<Error>& error() const { return error_; }

 private:
  AtomicFile& file_;
  std::optional<Error> error_;
};

}  // namespace

struct Builder::State {
  onnx::ModelProto model;
  std::vector<Weight> weights;
  int64_t weight_bytes = 0;  // also of those that are left out
  std::map<std::string, int> uses_of_name;
  std::map<Value, int> producers;  // value -> index of the node that makes it
};

Builder::Scope::Scope(Builder& builder, std::string_view name)
    : builder_(builder), outer_length_(builder.scope_.size()) {
  builder_.scope_ += name;
  builder_.scope_ += '/';
}

Builder::Scope::~Scope() {
  builder_.scope_.resize(outer_length_);
}

Builder::Builder(BuilderOptions options) : options_(std::move(options)), state_(std::make_unique<State>()) {
  onnx::ModelProto& model = state_->model;
  model.set_ir_version(options_.opset >= 23 ? kIrVersionOfOpset23 : kIrVersion);
  model.set_producer_name("mpc zoo");
  model.add_opset_import()->set_version(options_.opset);
  model.mutable_graph()->set_name(options_.model_name);
}

Builder::~Builder() = default;

int64_t Builder::size(std::string_view name) const {
  const auto it = options_.sizes.find(std::string(name));
  MPC_CHECK(it != options_.sizes.end(), "the model has no size '" + std::string(name) + "'");
  return it->second;
}

void Builder::refuse(const std::string& why) const {
  throw Error(ErrorId::M003, options_.model_name, why);
}

std::string Builder::scoped(std::string_view name) const {
  return scope_ + std::string(name);
}

std::string Builder::unique_name(std::string_view last) {
  const std::string name = scoped(last);
  const int uses = state_->uses_of_name[name]++;
  return uses == 0 ? name : name + "_" + std::to_string(uses);
}

Value Builder::float_input(std::string_view name, const std::vector<Dim>& dims) {
  auto& input = *state_->model.mutable_graph()->add_input();
  input.set_name(std::string(name));
  set_dims(*input.mutable_type(), onnx::TensorProto::FLOAT, dims);
  return input.name();
}

Value Builder::int_input(std::string_view name, const std::vector<Dim>& dims) {
  auto& input = *state_->model.mutable_graph()->add_input();
  input.set_name(std::string(name));
  set_dims(*input.mutable_type(), onnx::TensorProto::INT64, dims);
  return input.name();
}

void Builder::output(const Value& value, std::string_view name, const std::vector<Dim>& dims) {
  auto& graph = *state_->model.mutable_graph();
  const auto producer = state_->producers.find(value);
  MPC_CHECK(producer != state_->producers.end(), "'" + value + "' has no producer");
  const auto rename = [&](std::string& used) {
    if (used == value) used = name;
  };
  for (std::string& made : *graph.mutable_node(producer->second)->mutable_output()) rename(made);
  for (int i = producer->second + 1; i < graph.node_size(); ++i) {
    for (std::string& used : *graph.mutable_node(i)->mutable_input()) rename(used);
  }
  auto& output = *graph.add_output();
  output.set_name(std::string(name));
  set_dims(*output.mutable_type(), onnx::TensorProto::FLOAT, dims);
}

std::vector<Value> Builder::nodes(std::string_view op, const std::vector<Value>& inputs, const Attributes& attributes,
                                  int count) {
  auto& graph = *state_->model.mutable_graph();
  auto& node = *graph.add_node();
  node.set_name(unique_name(op));
  node.set_op_type(std::string(op));
  for (const Value& input : inputs) node.add_input(input);
  for (const auto& [name, value] : attributes.items()) {
    auto& attribute = *node.add_attribute();
    attribute.set_name(name);
    std::visit(AttributeSetter{attribute}, value);
  }
  std::vector<Value> outputs;
  for (int i = 0; i < count; ++i) {
    outputs.push_back(node.name() + "_out" + (count == 1 ? "" : std::to_string(i)));
    node.add_output(outputs.back());
    state_->producers[outputs.back()] = graph.node_size() - 1;
  }
  return outputs;
}

Value Builder::node(std::string_view op, const std::vector<Value>& inputs, const Attributes& attributes) {
  return nodes(op, inputs, attributes, 1).front();
}

Value Builder::weight(std::string_view name, const std::vector<int64_t>& dims, const Init& init) {
  auto& graph = *state_->model.mutable_graph();
  int64_t elements = 1;
  for (const int64_t dim : dims) elements *= dim;  // the limits of the size flags keep it below 2^50
  state_->weight_bytes += elements * static_cast<int64_t>(sizeof(float));
  if (state_->weight_bytes >= kMaxTensorBytes)
    refuse("its weights would take more than " + bytes_text(kMaxTensorBytes));
  std::string full_name = unique_name(name);
  MPC_CHECK(full_name == scoped(name), "two weights are called '" + full_name + "'");
  if (!options_.weights) {
    const Scope inside = scope(name);
    const Value shape = node("Constant", {});
    set_tensor_attribute(*graph.mutable_node(graph.node_size() - 1),
                         int_tensor({static_cast<int64_t>(dims.size())}, dims));
    node("ConstantOfShape", {shape});
    const float value = representative(init);
    onnx::NodeProto& filled = *graph.mutable_node(graph.node_size() - 1);
    set_tensor_attribute(filled, float_tensor({1}, std::span(&value, 1)));
    filled.set_output(0, full_name);
    return full_name;
  }
  auto& tensor = *graph.add_initializer();
  tensor.set_name(full_name);
  tensor.set_data_type(onnx::TensorProto::FLOAT);
  for (const int64_t dim : dims) tensor.add_dims(dim);
  state_->weights.push_back({graph.initializer_size() - 1, init, elements});
  return full_name;
}

Value Builder::ints(std::string_view name, const std::vector<int64_t>& values) {
  auto& tensor = *state_->model.mutable_graph()->add_initializer();
  tensor = int_tensor({static_cast<int64_t>(values.size())}, values);
  tensor.set_name(unique_name(name));
  return tensor.name();
}

Value Builder::integer(std::string_view name, int64_t value) {
  auto& tensor = *state_->model.mutable_graph()->add_initializer();
  tensor = int_tensor({}, std::span(&value, 1));
  tensor.set_name(unique_name(name));
  return tensor.name();
}

Value Builder::floats(const std::vector<float>& values) {
  Value value = node("Constant", {});
  auto& graph = *state_->model.mutable_graph();
  set_tensor_attribute(*graph.mutable_node(graph.node_size() - 1),
                       float_tensor({static_cast<int64_t>(values.size())}, values));
  return value;
}

Value Builder::number(float number) {
  Value value = node("Constant", {});
  auto& graph = *state_->model.mutable_graph();
  set_tensor_attribute(*graph.mutable_node(graph.node_size() - 1), float_tensor({}, std::span(&number, 1)));
  return value;
}

void Builder::metadata(std::string_view key, std::string_view value) {
  auto& entry = *state_->model.add_metadata_props();
  entry.set_key(std::string(key));
  entry.set_value(std::string(value));
}

void Builder::embed_weights() {
  for (const Weight& weight : state_->weights) {
    onnx::TensorProto& tensor = *state_->model.mutable_graph()->mutable_initializer(weight.initializer);
    std::string& bytes = *tensor.mutable_raw_data();
    bytes.reserve(static_cast<size_t>(weight.elements) * sizeof(float));
    const uint64_t key = stream_key(options_.seed, tensor.name());
    std::vector<float> chunk;
    for (int64_t first = 0; first < weight.elements; first += kElementsPerChunk) {
      chunk.resize(static_cast<size_t>(std::min(kElementsPerChunk, weight.elements - first)));
      fill(weight.init, key, first, chunk);
      bytes.append(reinterpret_cast<const char*>(chunk.data()), chunk.size() * sizeof(float));
    }
  }
}

void Builder::append_external_weights(AtomicFile& file, const std::string& location) {
  std::vector<float> chunk;
  for (const Weight& weight : state_->weights) {
    onnx::TensorProto& tensor = *state_->model.mutable_graph()->mutable_initializer(weight.initializer);
    file.pad_to(kExternalAlignment);
    const int64_t offset = file.bytes_written();
    const uint64_t key = stream_key(options_.seed, tensor.name());
    for (int64_t first = 0; first < weight.elements; first += kElementsPerChunk) {
      chunk.resize(static_cast<size_t>(std::min(kElementsPerChunk, weight.elements - first)));
      fill(weight.init, key, first, chunk);
      file.append(std::as_bytes(std::span(chunk)));
    }
    tensor.set_data_location(onnx::TensorProto::EXTERNAL);
    add_external_entry(tensor, "location", location);
    add_external_entry(tensor, "offset", std::to_string(offset));
    add_external_entry(tensor, "length", std::to_string(file.bytes_written() - offset));
  }
}

void Builder::append_model(AtomicFile& file) {
  FileStream stream(file);
  {
    google::protobuf::io::CopyingOutputStreamAdaptor adaptor(&stream);
    const bool serialized = state_->model.SerializeToZeroCopyStream(&adaptor) && adaptor.Flush();
    MPC_CHECK(serialized || stream.error(), "the model '" + options_.model_name + "' could not be serialized");
  }
  if (stream.error()) throw *stream.error();
}

void Builder::save(const std::string& path, int64_t inline_weight_bytes) {
  AtomicFile file(path);
  if (!options_.weights || state_->weight_bytes <= inline_weight_bytes) {
    embed_weights();
    append_model(file);
  } else {
    const std::string data_path = path + ".data";
    AtomicFile data(data_path);
    append_external_weights(data, data_path.substr(data_path.rfind('/') + 1));  // npos + 1 is 0
    append_model(file);
    data.commit();  // after all that can fail for want of space, before the model that refers to it
  }
  file.commit();
}

}  // namespace mpc::zoo
