#include <climits>

#include <google/protobuf/io/coded_stream.h>

#include <fmt/format.h>

#include "compiler/base/file.h"
#include "compiler/onnx/initializers.h"
#include "compiler/onnx/model.h"
#include "compiler/onnx/types.h"
#include "compiler/onnx/wire.h"

namespace mpc::onnx_io {

Literal read_tensor_file(const std::string& path) {
  constexpr int kProtobufDepth = 100;
  const InputFile file(path);
  if (file.bytes() > INT_MAX)
    throw Error(ErrorId::M051, path, fmt::format("has {} bytes, at most {} are allowed", file.bytes(), INT_MAX));
  try {
    check_wire(file, pb::TensorProto::descriptor());
    std::vector<std::byte> bytes(static_cast<size_t>(file.bytes()));
    file.read(0, bytes);
    pb::TensorProto tensor;
    google::protobuf::io::CodedInputStream coded(reinterpret_cast<const uint8_t*>(bytes.data()),
                                                 static_cast<int>(bytes.size()));
    coded.SetRecursionLimit(kProtobufDepth);
    if (!tensor.ParseFromCodedStream(&coded) || !coded.ConsumedEntireMessage())
      throw Error(ErrorId::M065, "", "is not a tensor: the protobuf is malformed or truncated");
    const auto content = check_tensor(tensor, nullptr, "", ErrorId::M065);
    if (!content)
      throw Error(ErrorId::M041, "",
                  fmt::format("a tensor of type {} and rank {} is not supported", onnx_type_text(tensor.data_type()),
                              tensor.dims_size()));
    return to_literal(*content, nullptr);
  } catch (const Error& error) {
    // The wire check speaks of models.
    if (error.id() == ErrorId::M020)
      throw Error(ErrorId::M065, path, "is not a tensor: the protobuf is malformed, truncated or nested too deeply");
    throw error.with_prefix(path);
  }
}

}  // namespace mpc::onnx_io
