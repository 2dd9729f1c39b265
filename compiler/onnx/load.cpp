#include <algorithm>
#include <climits>

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "compiler/base/file.h"
#include "compiler/base/sha256.h"
#include "compiler/onnx/model_data.h"
#include "compiler/onnx/types.h"
#include "compiler/onnx/wire.h"

namespace mpc::onnx_io {
namespace {

/// Feeds protobuf from a file, and hashes what passes. An error is kept for later: protobuf does not expect exceptions.
class HashingStream : public google::protobuf::io::CopyingInputStream {
 public:
  explicit HashingStream(const InputFile& file) : file_(file) {}

  int Read(void* buffer, int size) override {
    const int64_t count = std::min<int64_t>(size, file_.bytes() - position_);
    const std::span<std::byte> out(static_cast<std::byte*>(buffer), static_cast<size_t>(count));
    try {
      file_.read(position_, out);
    } catch (const Error& error) {
      error_ = error;
      return -1;
    }
    hash_.update(out);
    position_ += count;
    return static_cast<int>(count);
  }

  const std::optional<Error>& error() const { return error_; }
  std::string digest() { return hex_text(hash_.finish()); }

 private:
  const InputFile& file_;
  int64_t position_ = 0;
  Sha256 hash_;
  std::optional<Error> error_;
};

/// @return the SHA-256 of the file.
std::string parse(const std::string& path, const Limits& limits, pb::ModelProto& model) {
  const InputFile file(path);
  if (file.bytes() > limits.model_bytes)
    throw Error(ErrorId::M051, "",
                fmt::format("has {} bytes, at most {} are allowed", file.bytes(), limits.model_bytes),
                "keep weights in external data");
  if (file.bytes() == 0) throw Error(ErrorId::M020, "", "the file is empty");
  check_wire(file, pb::ModelProto::descriptor());
  constexpr int kProtobufDepth = 100;
  constexpr int kBlockBytes = 1 << 20;
  HashingStream stream(file);
  google::protobuf::io::CopyingInputStreamAdaptor adaptor(&stream, kBlockBytes);
  google::protobuf::io::CodedInputStream coded(&adaptor);
  coded.SetRecursionLimit(kProtobufDepth);
  coded.SetTotalBytesLimit(INT_MAX);
  const bool is_parsed = model.ParseFromCodedStream(&coded) && coded.ConsumedEntireMessage();
  if (stream.error()) throw *stream.error();
  if (!is_parsed)
    throw Error(ErrorId::M020, "", "is not an ONNX model: the protobuf is malformed, truncated or nested too deeply");
  return stream.digest();
}

DeclaredValue declared(const pb::ValueInfoProto& info) {
  DeclaredValue value{info.name(), {}, false, {}};
  if (!info.type().has_tensor_type()) return value;
  const auto& tensor = info.type().tensor_type();
  value.dtype = to_dtype(tensor.elem_type());
  value.has_shape = tensor.has_shape();
  for (const auto& dim : tensor.shape().dim()) {
    DeclaredDim& out = value.dims.emplace_back();
    if (dim.has_dim_value()) {
      // Some exporters write a dimension that is not known as -1, which ONNX Runtime takes for that as well.
      if (dim.dim_value() == -1) continue;
      if (dim.dim_value() < 0)
        throw Error(ErrorId::M022, "value \"" + info.name() + "\"", fmt::format("a dimension is {}", dim.dim_value()));
      out.value = dim.dim_value();
    } else {
      // "?" is how some exporters write that a dimension has no name: two of them need not be equal.
      if (dim.dim_param() != "?") out.symbol = dim.dim_param();
    }
  }
  return value;
}

void check_declared(const pb::ValueInfoProto& info) {
  if (!info.type().has_tensor_type()) return;
  const int32_t type = info.type().tensor_type().elem_type();
  if (!is_onnx_type(type))
    throw Error(ErrorId::M022, "value \"" + info.name() + "\"",
                fmt::format("its element type is {}", onnx_type_text(type)));
}

void read_info(Model::Data& data) {
  const pb::GraphProto& graph = data.proto.graph();
  ModelInfo& info = data.info;
  info.graph_name = graph.name();
  info.producer = data.proto.producer_name();
  info.ir_version = data.proto.ir_version();
  const Opsets opsets = opsets_of(data.proto.opset_import(), "model");
  if (const auto it = opsets.find(""); it != opsets.end()) info.opset = it->second;
  for (const auto& input : graph.input()) {
    check_declared(input);
    if (data.weights.find(input.name()) == nullptr) info.inputs.push_back(declared(input));
  }
  for (const auto& output : graph.output()) {
    check_declared(output);
    info.outputs.push_back(declared(output));
  }
  for (const auto& value : graph.value_info()) check_declared(value);
  for (const auto& property : data.proto.metadata_props()) info.metadata[property.key()] = property.value();
}

/// An input that repeats an initializer (as files before IR version 4 do) must agree with it.
void check_input_of_initializer(const pb::ValueInfoProto& input, const TensorContent& content) {
  const DeclaredValue value = declared(input);
  bool agrees = value.dtype == content.dtype;
  if (value.has_shape) {
    agrees = agrees && static_cast<int>(value.dims.size()) == content.shape.rank();
    for (size_t i = 0; agrees && i < value.dims.size(); ++i) {
      agrees = value.dims[i].value < 0 || value.dims[i].value == content.shape[static_cast<int>(i)];
    }
  }
  if (!agrees) {
    throw Error(
        ErrorId::M023, "initializer \"" + input.name() + "\"",
        fmt::format("is {}, the graph input of that name says otherwise", type_text(content.dtype, content.shape)));
  }
}

void read_initializers(Model::Data& data) {
  const pb::GraphProto& graph = data.proto.graph();
  const auto add = [&](const std::string& name, TensorContent content) {
    data.initializers.push_back({name, content.dtype, content.shape});
    data.weights.add(name, std::move(content));
  };
  for (const auto& tensor : graph.initializer()) {
    // A type that mpc has not is refused where the importer meets the name: the model may not need it.
    if (auto content = check_tensor(tensor, data.files.get(), "initializer \"" + tensor.name() + "\""))
      add(tensor.name(), std::move(*content));
  }
  int64_t dense_bytes = 0;
  for (const auto& sparse : graph.sparse_initializer()) {
    const std::string where = "sparse initializer \"" + sparse.values().name() + "\"";
    TensorContent content = densify(
        sparse, std::min(data.limits.folded_constant_bytes, data.limits.folded_bytes_total - dense_bytes), where);
    dense_bytes += content.bytes();
    add(sparse.values().name(), std::move(content));
  }
  for (const auto& input : graph.input()) {
    if (const TensorContent* content = data.weights.find(input.name())) check_input_of_initializer(input, *content);
  }
}

}  // namespace

Model Model::load(const std::string& path, const Limits& limits) {
  auto data = std::make_unique<Data>();
  try {
    data->info.path = path;
    data->limits = limits;
    data->info.sha256 = parse(path, limits, data->proto);
    data->files = std::make_unique<ExternalFiles>(path, limits.external_root);
    data->weights.set_files(data->files.get());
    check_model(data->proto, data->limits, *data->files);
    read_initializers(*data);
    read_info(*data);
    flatten(*data);
    find_readers(*data);
    find_untrained(*data);
    find_generated_parameters(*data);
  } catch (const Error& error) {
    throw error.where().starts_with(path) ? error : error.with_prefix(path);
  }
  return Model(std::move(data));
}

Model::Model(std::unique_ptr<Data> data) : data_(std::move(data)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

const ModelInfo& Model::info() const {
  return data_->info;
}
const std::vector<InitializerInfo>& Model::initializers() const {
  return data_->initializers;
}
const std::vector<std::string>& Model::generated_parameters() const {
  return data_->generated_names;
}
const WeightSource& Model::weights() const {
  return data_->weights;
}

}  // namespace mpc::onnx_io
