#include "compiler/onnx/initializers.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "compiler/base/checked.h"
#include "compiler/onnx/types.h"

namespace mpc::onnx_io {
namespace {

/// Number of elements, or an error when a dimension is negative or the count has 2^62 elements or more.
int64_t checked_elements(const pb::TensorProto& tensor, const std::string& where, ErrorId fault) {
  int64_t elements = 1;
  int64_t nonzero = 1;  // a zero dimension must not hide an overflow of the others
  for (const int64_t dim : tensor.dims()) {
    if (dim < 0) throw Error(fault, where, fmt::format("a dimension is {}", dim));
    const auto product = checked_mul(nonzero, std::max<int64_t>(dim, 1));
    if (!product || *product >= kMaxTensorBytes)
      throw Error(ErrorId::M051, where, "the tensor has 2^47 elements or more");
    nonzero = *product;
    elements *= dim;
  }
  return elements;
}

/// How many elements each typed field holds, by the rules of TensorProto: which field is for which type.
int64_t typed_field_count(const pb::TensorProto& tensor) {
  switch (tensor.data_type()) {
    case pb::TensorProto::FLOAT:
    case pb::TensorProto::COMPLEX64:
      return tensor.float_data_size();
    case pb::TensorProto::DOUBLE:
    case pb::TensorProto::COMPLEX128:
      return tensor.double_data_size();
    case pb::TensorProto::INT64:
      return tensor.int64_data_size();
    case pb::TensorProto::UINT32:
    case pb::TensorProto::UINT64:
      return tensor.uint64_data_size();
    case pb::TensorProto::STRING:
      return tensor.string_data_size();
    default:
      return tensor.int32_data_size();
  }
}

int64_t expected_field_count(const pb::TensorProto& tensor, int64_t elements) {
  switch (tensor.data_type()) {
    case pb::TensorProto::COMPLEX64:
    case pb::TensorProto::COMPLEX128:
      return 2 * elements;
    default:
      break;
  }
  const int bits = onnx_type_bits(tensor.data_type()).value_or(8);
  return bits < 8 ? (elements * bits + 7) / 8 : elements;  // packed types: one int32 per byte
}

int64_t all_fields_count(const pb::TensorProto& tensor) {
  return int64_t{tensor.float_data_size()} + tensor.double_data_size() + tensor.int64_data_size() +
         tensor.uint64_data_size() + tensor.string_data_size() + tensor.int32_data_size();
}

void check_inline_data(const pb::TensorProto& tensor, int64_t elements, const std::string& where, ErrorId fault) {
  const int64_t in_fields = typed_field_count(tensor);
  if (all_fields_count(tensor) != in_fields)
    throw Error(fault, where,
                fmt::format("the data is in a field that does not belong to {}", onnx_type_text(tensor.data_type())));
  if (tensor.has_raw_data()) {
    if (in_fields != 0) throw Error(fault, where, "raw_data and a typed field are both present");
    const auto bits = onnx_type_bits(tensor.data_type());
    if (!bits) throw Error(fault, where, "strings cannot be stored in raw_data");
    const int64_t needed = (elements * *bits + 7) / 8;
    if (static_cast<int64_t>(tensor.raw_data().size()) != needed) {
      throw Error(fault, where,
                  fmt::format("raw_data has {} bytes, the shape needs {}", tensor.raw_data().size(), needed));
    }
    return;
  }
  const int64_t needed = expected_field_count(tensor, elements);
  if (in_fields != needed)
    throw Error(fault, where, fmt::format("holds {} values, the shape needs {}", in_fields, needed));
}

/// Elements [first, first + count) of a typed field that stores each in a wider integer.
template <class Stored, class Field>
void narrow(const Field& field, int64_t first, int64_t count, std::vector<std::byte>& out) {
  out.resize(static_cast<size_t>(count) * sizeof(Stored));
  for (int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<Stored>(field.Get(static_cast<int>(first + i)));
    std::memcpy(out.data() + static_cast<size_t>(i) * sizeof(Stored), &value, sizeof(Stored));
  }
}

std::vector<std::byte> narrowed(const TensorContent& content, int64_t first, int64_t count) {
  const pb::TensorProto& proto = *content.proto;
  std::vector<std::byte> out;
  switch (content.dtype) {
    case DType::u32:
      narrow<uint32_t>(proto.uint64_data(), first, count, out);
      break;
    case DType::i8:
    case DType::u8:
      narrow<uint8_t>(proto.int32_data(), first, count, out);
      break;
    default:
      narrow<uint16_t>(proto.int32_data(), first, count, out);
      break;  // i16 u16 f16 bf16
    case DType::boolean:
      narrow<uint8_t>(proto.int32_data(), first, count, out);
      for (int64_t i = 0; i < count; ++i)
        out[static_cast<size_t>(i)] = std::byte{proto.int32_data(static_cast<int>(first + i)) != 0};
      break;
  }
  return out;
}

void copy_bytes(const void* data, int64_t offset, std::span<std::byte> out) {
  std::memcpy(out.data(), static_cast<const std::byte*>(data) + offset, out.size());
}

void read_proto(const TensorContent& content, int64_t offset, std::span<std::byte> out) {
  const pb::TensorProto& proto = *content.proto;
  if (proto.has_raw_data()) {
    copy_bytes(proto.raw_data().data(), offset, out);
    // ONNX allows any non-zero byte for true; kernels rely on 0 and 1.
    if (content.dtype == DType::boolean)
      std::ranges::for_each(out, [](std::byte& b) { b = std::byte{b != std::byte{0}}; });
    return;
  }
  switch (content.dtype) {
    case DType::f32:
      return copy_bytes(proto.float_data().data(), offset, out);
    case DType::f64:
      return copy_bytes(proto.double_data().data(), offset, out);
    case DType::i64:
      return copy_bytes(proto.int64_data().data(), offset, out);
    case DType::u64:
      return copy_bytes(proto.uint64_data().data(), offset, out);
    case DType::i32:
      return copy_bytes(proto.int32_data().data(), offset, out);
    default:
      break;
  }
  const int64_t element_bytes = dtype_bytes(content.dtype);
  const int64_t first = offset / element_bytes;
  const int64_t end = (offset + static_cast<int64_t>(out.size()) + element_bytes - 1) / element_bytes;
  copy_bytes(narrowed(content, first, end - first).data(), offset - first * element_bytes, out);
}

void read_literal(const Literal& literal, int64_t offset, std::span<std::byte> out) {
  const auto stored = literal.stored();
  if (!literal.is_splat()) return copy_bytes(stored.data(), offset, out);
  for (size_t i = 0; i < out.size(); ++i) out[i] = stored[(static_cast<size_t>(offset) + i) % stored.size()];
}

}  // namespace

std::optional<TensorContent> check_tensor(const pb::TensorProto& tensor, ExternalFiles* files, const std::string& where,
                                          ErrorId fault) {
  if (!is_onnx_type(tensor.data_type()))
    throw Error(fault, where, fmt::format("the data type is {}", onnx_type_text(tensor.data_type())));
  if (tensor.has_segment()) throw Error(ErrorId::M046, where, "tensors stored in segments are not supported");
  const int64_t elements = checked_elements(tensor, where, fault);
  const auto dtype = to_dtype(tensor.data_type());
  std::optional<TensorContent> content;
  if (dtype && tensor.dims_size() <= kMaxRank) {
    const auto shape =
        checked_shape(std::span<const int64_t>(tensor.dims().data(), static_cast<size_t>(tensor.dims_size())), *dtype);
    if (!shape) throw Error(ErrorId::M051, where, "the tensor has 2^47 bytes or more");
    content = TensorContent{*dtype, *shape, &tensor, {}, {}};
  }
  if (!tensor.has_data_location() || tensor.data_location() != pb::TensorProto::EXTERNAL) {
    if (tensor.external_data_size() != 0)
      throw Error(fault, where, "has external data entries, but is not stored externally");
    check_inline_data(tensor, elements, where, fault);
    return content;
  }
  if (files == nullptr) throw Error(fault, where, "external data is not allowed here");
  if (tensor.has_raw_data() || all_fields_count(tensor) != 0)
    throw Error(ErrorId::M024, where, "is stored externally, but holds data too");
  const auto bits = onnx_type_bits(tensor.data_type());
  if (!bits) throw Error(ErrorId::M024, where, "strings cannot be stored externally");
  const ExternalRegion region = files->check(tensor, (elements * *bits + 7) / 8, where);
  if (content) content->external = region;
  return content;
}

TensorContent densify(const pb::SparseTensorProto& sparse, int64_t max_bytes, const std::string& where) {
  const auto values = check_tensor(sparse.values(), nullptr, where + " values");
  if (!values)
    throw Error(ErrorId::M041, where,
                fmt::format("values of type {} are not supported", onnx_type_text(sparse.values().data_type())));
  const auto indices = check_tensor(sparse.indices(), nullptr, where + " indices");
  if (!indices || indices->dtype != DType::i64) throw Error(ErrorId::M023, where, "the indices must be of type INT64");
  const std::vector<int64_t> dims(sparse.dims().begin(), sparse.dims().end());
  if (dims.size() > kMaxRank)
    throw Error(ErrorId::M046, where, fmt::format("rank {} is above {}", dims.size(), kMaxRank));
  if (std::ranges::any_of(dims, [](int64_t dim) { return dim <= 0; }))
    throw Error(ErrorId::M023, where, "a dimension is not positive");
  const auto shape = checked_shape(dims, values->dtype);
  if (!shape || byte_size(*shape, values->dtype) > max_bytes) {
    throw Error(ErrorId::M051, where, fmt::format("a sparse tensor may have {} bytes when made dense", max_bytes));
  }
  const int64_t count = values->shape.rank() == 1 ? values->shape[0] : -1;
  const bool is_linear = indices->shape.rank() == 1 && indices->shape[0] == count;
  const bool is_coordinates =
      indices->shape.rank() == 2 && indices->shape[0] == count && indices->shape[1] == shape->rank();
  if (!is_linear && !is_coordinates) {
    throw Error(ErrorId::M023, where,
                fmt::format("values {} and indices {} do not belong together", to_string(values->shape),
                            to_string(indices->shape)));
  }
  const Literal value_literal = to_literal(*values, nullptr);
  const Literal index_literal = to_literal(*indices, nullptr);
  const auto step = strides(*shape);
  const auto element_bytes = static_cast<size_t>(dtype_bytes(values->dtype));
  std::vector<std::byte> dense(static_cast<size_t>(byte_size(*shape, values->dtype)));
  for (int64_t i = 0; i < count; ++i) {
    int64_t position = is_linear ? index_literal.integer(i) : 0;
    bool is_inside = position >= 0 && position < shape->elements();
    for (int axis = 0; is_coordinates && axis < shape->rank(); ++axis) {
      const int64_t index = index_literal.integer(i * shape->rank() + axis);
      is_inside = is_inside && index >= 0 && index < (*shape)[axis];
      if (is_inside) position += index * step[static_cast<size_t>(axis)];
    }
    if (!is_inside)
      throw Error(ErrorId::M023, where, fmt::format("sparse index {} is outside the shape {}", i, to_string(*shape)));
    std::memcpy(dense.data() + static_cast<size_t>(position) * element_bytes,
                value_literal.stored().data() + static_cast<size_t>(i) * element_bytes, element_bytes);
  }
  return TensorContent{values->dtype, *shape, nullptr, {}, Literal(values->dtype, *shape, std::move(dense))};
}

void read_content(const TensorContent& content, const ExternalFiles* files, int64_t offset, std::span<std::byte> out) {
  if (out.empty()) return;
  if (content.literal) return read_literal(*content.literal, offset, out);
  if (!content.external) return read_proto(content, offset, out);
  files->read(*content.external, offset, out);
  if (content.dtype == DType::boolean)
    std::ranges::for_each(out, [](std::byte& b) { b = std::byte{b != std::byte{0}}; });
}

Literal to_literal(const TensorContent& content, const ExternalFiles* files) {
  if (content.literal) return *content.literal;
  std::vector<std::byte> bytes(static_cast<size_t>(content.bytes()));
  read_content(content, files, 0, bytes);
  return Literal(content.dtype, content.shape, std::move(bytes));
}

void ModelWeights::read(const std::string& name, int64_t offset, std::span<std::byte> out) const {
  const TensorContent* content = &known(name);
  const auto end = checked_add(offset, static_cast<int64_t>(out.size()));
  if (offset < 0 || !end || *end > content->bytes()) {
    throw Error(ErrorId::M023, "weight \"" + name + "\"",
                fmt::format("has {} bytes, {} bytes from {} on were asked for", content->bytes(), out.size(), offset));
  }
  read_content(*content, files_, offset, out);
}

const TensorContent& ModelWeights::known(const std::string& name) const {
  const TensorContent* content = find(name);
  if (content == nullptr) throw Error(ErrorId::M023, "weight \"" + name + "\"", "is not in the model");
  return *content;
}

const TensorContent* ModelWeights::find(const std::string& name) const {
  const auto it = contents_.find(name);
  return it == contents_.end() ? nullptr : &it->second;
}

}  // namespace mpc::onnx_io
