#pragma once

#include <functional>
#include <span>
#include <string>

#include "compiler/onnx/model_data.h"
#include "compiler/onnx/proto.h"

namespace mpc::onnx_io {

/// Content of an initializer that replaces the one in the file: bytes [offset, offset + out.size()).
using ReplacementReader = std::function<void(const std::string& name, int64_t offset, std::span<std::byte> out)>;

/// Writes `proto`, a changed copy of data.proto. Initializers for which `is_replaced` holds get what `read` gives.
/// Tensors go to `<path>.data` when the model had external data or has initializers of more than `inline_bytes`. Both
/// files are on the disk before one of them appears, the data first.
/// @throws Error(M011, M012, M046: external data outside initializers, and those of `read`).
void write_model(const Model::Data& data, pb::ModelProto& proto, const std::string& path, int64_t inline_bytes,
                 const std::function<bool(const std::string&)>& is_replaced, const ReplacementReader& read);

}  // namespace mpc::onnx_io
