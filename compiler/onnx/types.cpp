#include "compiler/onnx/types.h"

#include <array>

namespace mpc::onnx_io {
namespace {

struct TypeRow {
  int32_t onnx_type;
  DType dtype;
};

constexpr std::array<TypeRow, kDTypeCount> kTypes = {{
    {pb::TensorProto::FLOAT, DType::f32},
    {pb::TensorProto::DOUBLE, DType::f64},
    {pb::TensorProto::FLOAT16, DType::f16},
    {pb::TensorProto::BFLOAT16, DType::bf16},
    {pb::TensorProto::INT8, DType::i8},
    {pb::TensorProto::INT16, DType::i16},
    {pb::TensorProto::INT32, DType::i32},
    {pb::TensorProto::INT64, DType::i64},
    {pb::TensorProto::UINT8, DType::u8},
    {pb::TensorProto::UINT16, DType::u16},
    {pb::TensorProto::UINT32, DType::u32},
    {pb::TensorProto::UINT64, DType::u64},
    {pb::TensorProto::BOOL, DType::boolean},
}};

}  // namespace

std::optional<DType> to_dtype(int32_t onnx_type) {
  for (const TypeRow& row : kTypes) {
    if (row.onnx_type == onnx_type) return row.dtype;
  }
  return std::nullopt;
}

int32_t to_onnx_type(DType dtype) {
  for (const TypeRow& row : kTypes) {
    if (row.dtype == dtype) return row.onnx_type;
  }
  MPC_CHECK(false, "every dtype has an ONNX type");
}

bool is_onnx_type(int32_t onnx_type) {
  return onnx_type != pb::TensorProto::UNDEFINED && pb::TensorProto::DataType_IsValid(onnx_type);
}

std::string onnx_type_text(int32_t onnx_type) {
  if (!pb::TensorProto::DataType_IsValid(onnx_type)) return "type " + std::to_string(onnx_type);
  return pb::TensorProto::DataType_Name(static_cast<pb::TensorProto::DataType>(onnx_type));
}

std::optional<int> onnx_type_bits(int32_t onnx_type) {
  if (const auto dtype = to_dtype(onnx_type)) return static_cast<int>(dtype_bytes(*dtype)) * 8;
  switch (onnx_type) {
    case pb::TensorProto::COMPLEX64:
      return 64;
    case pb::TensorProto::COMPLEX128:
      return 128;
    case pb::TensorProto::FLOAT8E4M3FN:
    case pb::TensorProto::FLOAT8E4M3FNUZ:
    case pb::TensorProto::FLOAT8E5M2:
    case pb::TensorProto::FLOAT8E5M2FNUZ:
    case pb::TensorProto::FLOAT8E8M0:
      return 8;
    case pb::TensorProto::INT4:
    case pb::TensorProto::UINT4:
    case pb::TensorProto::FLOAT4E2M1:
      return 4;
    case pb::TensorProto::INT2:
    case pb::TensorProto::UINT2:
      return 2;
    default:
      return std::nullopt;
  }
}

std::optional<DType> parse_onnx_type(std::string_view name) {
  pb::TensorProto::DataType type;
  if (!pb::TensorProto::DataType_Parse(std::string(name), &type)) return std::nullopt;
  return to_dtype(type);
}

std::string name_of(const pb::NodeProto& node) {
  if (!node.name().empty()) return node.name();
  for (const std::string& output : node.output()) {
    if (!output.empty()) return output;
  }
  return node.op_type();
}

std::string describe(const pb::NodeProto& node) {
  return "node \"" + name_of(node) + "\" (" + node.op_type() + ")";
}

std::string_view canonical_domain(std::string_view domain) {
  return domain == "ai.onnx" ? std::string_view() : domain;
}

bool is_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  for (size_t i = 0; i < text.size();) {
    const unsigned char first = byte(i);
    if (first < 0x80) {
      ++i;
      continue;
    }
    if (first < 0xC2 || first > 0xF4) return false;
    const size_t count = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (text.size() - i < count) return false;
    for (size_t k = 1; k < count; ++k) {
      if ((byte(i + k) & 0xC0) != 0x80) return false;
    }
    const unsigned char second = byte(i + 1);
    // overlong forms, surrogates, and code points above U+10FFFF
    if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F)) return false;
    if ((first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F)) return false;
    i += count;
  }
  return true;
}

}  // namespace mpc::onnx_io
