#include "compiler/onnx/write_model.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include <fmt/format.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "compiler/base/file.h"
#include "compiler/base/text.h"
#include "compiler/onnx/types.h"

namespace mpc::onnx_io {
namespace {

constexpr int64_t kAlignment = 64;           // so that a mapped file can be read in place
constexpr int64_t kSmallTensorBytes = 1024;  // stays in the model file, where tools look for shapes
constexpr int64_t kBlockBytes = int64_t{16} << 20;

/// Hands protobuf's output to a file. An error is kept for later: protobuf does not expect exceptions.
class FileStream : public google::protobuf::io::CopyingOutputStream {
 public:
  explicit FileStream(AtomicFile& file) : file_(file) {}

  bool Write(const void* buffer, int size) override {
    try {
      file_.append(std::span(static_cast<const std::byte*>(buffer), static_cast<size_t>(size)));
      return true;
    } catch (const Error& error) {
      error_ = error;
      return false;
    }
  }
  const std::optional<Error>& error() const { return error_; }

 private:
  AtomicFile& file_;
  std::optional<Error> error_;
};

int64_t stored_bytes(const pb::TensorProto& tensor) {
  int64_t elements = 1;
  for (const int64_t dim : tensor.dims()) elements *= dim;  // load() checked the product
  return (elements * onnx_type_bits(tensor.data_type()).value_or(0) + 7) / 8;
}

bool is_external(const pb::TensorProto& tensor) {
  return tensor.has_data_location() && tensor.data_location() == pb::TensorProto::EXTERNAL;
}

void clear_content(pb::TensorProto& tensor) {
  tensor.clear_float_data();
  tensor.clear_double_data();
  tensor.clear_int32_data();
  tensor.clear_int64_data();
  tensor.clear_uint64_data();
  tensor.clear_raw_data();
  tensor.clear_external_data();
  tensor.clear_data_location();
}

void refuse_external_attributes(const pb::GraphProto& graph) {
  for (const auto& node : graph.node()) {
    for (const auto& attribute : node.attribute()) {
      const bool has_external = (attribute.has_t() && is_external(attribute.t())) ||
                                std::any_of(attribute.tensors().begin(), attribute.tensors().end(), is_external);
      if (has_external)
        throw Error(ErrorId::M046, describe(node),
                    "its tensor is external data, which is written for initializers only");
      if (attribute.has_g()) refuse_external_attributes(attribute.g());
    }
  }
}

class Writer {
 public:
  Writer(const Model::Data& data, const std::string& path, int64_t inline_bytes,
         const std::function<bool(const std::string&)>& is_replaced, const ReplacementReader& read)
      : data_(data), path_(path), inline_bytes_(inline_bytes), is_replaced_(is_replaced), read_(read) {}

  void run(pb::ModelProto& proto) {
    auto& initializers = *proto.mutable_graph()->mutable_initializer();
    int64_t bytes = 0;
    bool has_external = false;
    for (const auto& tensor : initializers) {
      bytes += stored_bytes(tensor);
      has_external = has_external || is_external(tensor);
    }
    if (has_external || bytes > inline_bytes_) open_data_file();
    refuse_external_attributes(proto.graph());
    for (auto& tensor : initializers) store(tensor);
    AtomicFile file(path_);
    FileStream stream(file);
    bool is_written = false;
    {
      google::protobuf::io::CopyingOutputStreamAdaptor adaptor(&stream);
      is_written = proto.SerializeToZeroCopyStream(&adaptor) && adaptor.Flush();
    }
    if (stream.error()) throw *stream.error();
    if (!is_written) throw Error(ErrorId::M011, path_, "the model does not fit into a protobuf of 2 GiB");
    file.flush();
    // Another process that writes the same two files must not put one of its own between them.
    const FolderLock lock(path_);
    if (data_file_) data_file_->commit();
    file.commit();
  }

 private:
  void open_data_file() {
    // The model names the file, and a location is UTF-8.
    if (!is_utf8(data_location()))
      throw Error(ErrorId::M012, path_, "is not valid UTF-8, which the name of a model with external data must be");
    data_file_.emplace(path_ + ".data");
  }
  std::string data_location() const { return std::filesystem::path(path_).filename().string() + ".data"; }

  void store(pb::TensorProto& tensor) {
    const bool was_external = is_external(tensor);
    const bool is_new = is_replaced_(tensor.name());
    const int64_t bytes = stored_bytes(tensor);
    const bool goes_out = data_file_ && bytes >= kSmallTensorBytes && onnx_type_bits(tensor.data_type());
    if (!is_new && !was_external && !goes_out) return;
    const auto read = reader_of(tensor, is_new);
    if (!goes_out) {
      std::string raw(static_cast<size_t>(bytes), '\0');
      read(0, std::as_writable_bytes(std::span(raw)));
      clear_content(tensor);
      tensor.set_raw_data(std::move(raw));
      return;
    }
    data_file_->pad_to(kAlignment);
    const int64_t start = data_file_->bytes_written();
    std::vector<std::byte> block(static_cast<size_t>(std::min(bytes, kBlockBytes)));
    for (int64_t offset = 0; offset < bytes; offset += kBlockBytes) {
      const std::span<std::byte> out(block.data(), static_cast<size_t>(std::min(kBlockBytes, bytes - offset)));
      read(offset, out);
      data_file_->append(out);
    }
    clear_content(tensor);
    tensor.set_data_location(pb::TensorProto::EXTERNAL);
    const auto entry = [&](const char* key, std::string value) {
      auto& added = *tensor.add_external_data();
      added.set_key(key);
      added.set_value(std::move(value));
    };
    entry("location", data_location());
    entry("offset", std::to_string(start));
    entry("length", std::to_string(bytes));
  }

  /// Where the bytes of an initializer come from. The proto is read through a copy of its content: `tensor` is cleared
  /// after.
  std::function<void(int64_t, std::span<std::byte>)> reader_of(const pb::TensorProto& tensor, bool is_new) const {
    const std::string name = tensor.name();
    if (is_new) return [this, name](int64_t offset, std::span<std::byte> out) { read_(name, offset, out); };
    const std::string where = "initializer \"" + name + "\"";
    if (is_external(tensor)) {
      const ExternalRegion region = data_.files->check(tensor, stored_bytes(tensor), where);
      return [this, region](int64_t offset, std::span<std::byte> out) { data_.files->read(region, offset, out); };
    }
    if (tensor.has_raw_data()) {
      return [&tensor](int64_t offset, std::span<std::byte> out) {
        std::copy_n(std::as_bytes(std::span(tensor.raw_data())).begin() + offset, out.size(), out.begin());
      };
    }
    const auto content = check_tensor(tensor, nullptr, where);
    if (!content)
      throw Error(ErrorId::M046, where,
                  fmt::format("type {} cannot be moved to external data", onnx_type_text(tensor.data_type())));
    return [content](int64_t offset, std::span<std::byte> out) { read_content(*content, nullptr, offset, out); };
  }

  const Model::Data& data_;
  const std::string& path_;
  const int64_t inline_bytes_;
  const std::function<bool(const std::string&)>& is_replaced_;
  const ReplacementReader& read_;
  std::optional<AtomicFile> data_file_;
};

}  // namespace

void write_model(const Model::Data& data, pb::ModelProto& proto, const std::string& path, int64_t inline_bytes,
                 const std::function<bool(const std::string&)>& is_replaced, const ReplacementReader& read) {
  Writer(data, path, inline_bytes, is_replaced, read).run(proto);
}

}  // namespace mpc::onnx_io
