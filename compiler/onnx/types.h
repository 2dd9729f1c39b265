#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "compiler/base/dtype.h"
#include "compiler/base/error.h"
#include "compiler/onnx/proto.h"

namespace mpc::onnx_io {

/// mpc's type for TensorProto.DataType `onnx_type`, or nothing when mpc has no tensors of it.
std::optional<DType> to_dtype(int32_t onnx_type);
int32_t to_onnx_type(DType dtype);
/// "FLOAT8E4M3FN", or "type 99" for a number that ONNX does not define.
std::string onnx_type_text(int32_t onnx_type);
/// Bits of one element as ONNX stores it; nothing for strings and for numbers that ONNX does not define.
std::optional<int> onnx_type_bits(int32_t onnx_type);
/// Is it one of TensorProto.DataType, UNDEFINED excepted?
bool is_onnx_type(int32_t onnx_type);
/// The type that Cast's `to` named as text before opset 6 ("FLOAT").
std::optional<DType> parse_onnx_type(std::string_view name);

/// `node "conv1" (Conv)`; a node without a name is named after its first output.
std::string describe(const pb::NodeProto& node);
/// The node's name, or that of its first output that has one.
std::string name_of(const pb::NodeProto& node);
/// "" for the default domain under either of its names.
std::string_view canonical_domain(std::string_view domain);

bool is_utf8(std::string_view text);

}  // namespace mpc::onnx_io
