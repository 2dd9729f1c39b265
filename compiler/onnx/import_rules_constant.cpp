#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "compiler/base/checked.h"
#include "compiler/onnx/import_rules.h"
#include "compiler/onnx/types.h"

// Constants, shapes, and ops whose results are known as soon as their operands are.

namespace mpc::onnx_io::rules {
namespace {

Literal list_literal(DType dtype, const std::vector<double>& numbers) {
  const auto element_bytes = static_cast<size_t>(dtype_bytes(dtype));
  std::vector<std::byte> bytes(numbers.size() * element_bytes);
  for (size_t i = 0; i < numbers.size(); ++i) write_number(dtype, bytes.data() + i * element_bytes, numbers[i]);
  return Literal(dtype, Shape{static_cast<int64_t>(numbers.size())}, std::move(bytes));
}

Literal integer_scalar(int64_t value) {
  std::vector<std::byte> bytes(sizeof(int64_t));
  write_integer(DType::i64, bytes.data(), value);
  return Literal(DType::i64, Shape{}, std::move(bytes));
}

DType dtype_of(const OnnxNode& node, int64_t onnx_type) {
  const bool fits = onnx_type >= 0 && onnx_type <= INT32_MAX;
  if (!fits || !is_onnx_type(static_cast<int32_t>(onnx_type)))
    node.fail(ErrorId::M031, fmt::format("there is no data type {}", onnx_type));
  const auto dtype = to_dtype(static_cast<int32_t>(onnx_type));
  if (!dtype)
    node.fail(ErrorId::M041,
              fmt::format("data type {} is not supported", onnx_type_text(static_cast<int32_t>(onnx_type))));
  return *dtype;
}

/// Number of steps from `start` to `limit`, as ONNX defines it: max(ceil((limit - start) / delta), 0).
int64_t range_count(const OnnxNode& node, const Literal& start, const Literal& limit, const Literal& delta) {
  constexpr double kTooMany = 9e18;
  if (is_float(start.dtype())) {
    const double step = delta.number(0);
    if (step == 0) node.fail(ErrorId::M033, "delta is 0");
    const double count = std::ceil((limit.number(0) - start.number(0)) / step);
    if (!(count < kTooMany)) node.fail(ErrorId::M051, "the range has too many elements");
    return count > 0 ? static_cast<int64_t>(count) : 0;
  }
  const int64_t step = delta.integer(0);
  if (step == 0) node.fail(ErrorId::M033, "delta is 0");
  const bool is_empty = step > 0 ? start.integer(0) >= limit.integer(0) : start.integer(0) <= limit.integer(0);
  if (is_empty) return 0;
  const auto span = checked_sub(limit.integer(0), start.integer(0));
  if (!span || step == INT64_MIN) node.fail(ErrorId::M051, "the range has too many elements");
  return (std::abs(*span) - 1) / std::abs(step) + 1;
}

}  // namespace

void identity(Importer& importer, OnnxNode& node) {
  if (node.inputs.empty()) node.fail(ErrorId::M022, "input 0 is required");
  importer.bind(node, 0, node.inputs[0]);
}

/// A condition that is known when planning chooses a branch; the other one is not looked at.
void if_then_else(Importer& importer, OnnxNode& node) {
  const auto condition = importer.content(node.inputs.at(0));
  if (!condition) {
    node.fail(ErrorId::M040,
              "its condition is not known when planning (--content INPUT=N says what an input always holds)");
  }
  if (condition->dtype() != DType::boolean || condition->shape().elements() != 1) {
    node.fail(ErrorId::M030, fmt::format("the condition is {}, one bool is needed",
                                         type_text(condition->dtype(), condition->shape())));
  }
  const char* branch = condition->integer(0) != 0 ? "then_branch" : "else_branch";
  const pb::AttributeProto* attribute = node.find(branch);
  if (attribute == nullptr || !attribute->has_g())
    node.fail(ErrorId::M031, fmt::format("attribute '{}' is required", branch));
  importer.inline_graph(node, attribute->g());
}

void constant(Importer& importer, OnnxNode& node) {
  if (node.proto->attribute_size() != 1)
    node.fail(ErrorId::M031,
              fmt::format("has {} attributes, one that holds the value is needed", node.proto->attribute_size()));
  const pb::AttributeProto& attribute = node.proto->attribute(0);
  const std::string& name = attribute.name();
  if (name == "value") {
    const TensorContent content = importer.tensor(node, attribute.t());
    importer.count_folded(node, content.bytes());
    return importer.bind(node, 0, importer.add_literal(node.outputs[0], importer.read(content)));
  }
  if (name == "sparse_value") {
    const TensorContent content =
        densify(attribute.sparse_tensor(), importer.limits().folded_constant_bytes, node.where());
    return importer.bind_literal(node, 0, importer.read(content));
  }
  if (name == "value_int") return importer.bind_literal(node, 0, integer_scalar(attribute.i()));
  if (name == "value_ints") return importer.bind_literal(node, 0, Literal::integers(node.attributes.integers(name)));
  if (name == "value_float") return importer.bind_literal(node, 0, Literal::scalar(DType::f32, attribute.f()));
  if (name == "value_floats")
    return importer.bind_literal(node, 0, list_literal(DType::f32, node.attributes.numbers(name)));
  node.fail(ErrorId::M041, fmt::format("its value is given as '{}', which is not supported", name));
}

void constant_of_shape(Importer& importer, OnnxNode& node) {
  const Literal dims_literal = importer.require_content(node, 0, "shape");
  if (!is_integer(dims_literal.dtype()) || dims_literal.shape().rank() != 1) {
    node.fail(ErrorId::M030, fmt::format("input 0 is {}, a list of i64 is needed",
                                         type_text(dims_literal.dtype(), dims_literal.shape())));
  }
  if (dims_literal.shape()[0] > kMaxRank)
    node.fail(ErrorId::M046,
              fmt::format("the result would have rank {}, at most {} is supported", dims_literal.shape()[0], kMaxRank));
  Literal element = Literal::scalar(DType::f32, 0);
  if (const auto* value = node.find("value")) {
    const TensorContent content = importer.tensor(node, value->t());
    if (content.shape.elements() != 1)
      node.fail(ErrorId::M031, fmt::format("value has {} elements, one is needed", content.shape.elements()));
    element = importer.read(content);
  }
  const std::vector<int64_t> dims = dims_literal.to_integers();
  for (const int64_t dim : dims) {
    if (dim < 0) node.fail(ErrorId::M033, fmt::format("a dimension is {}", dim));
  }
  const auto shape = checked_shape(dims, element.dtype());
  if (!shape) node.fail(ErrorId::M051, "the result would have 2^47 bytes or more");
  importer.bind_literal(node, 0, Literal::splat(element.dtype(), *shape, element.stored()));
}

void shape(Importer& importer, OnnxNode& node) {
  const Shape& from = importer.type(node.inputs.at(0)).shape;
  const int64_t rank = from.rank();
  const auto position = [&](std::string_view name, int64_t otherwise) {
    const int64_t at = node.integer(name, otherwise);
    return std::clamp<int64_t>(at < 0 ? std::max<int64_t>(at, -rank) + rank : at, 0, rank);
  };
  const int64_t start = position("start", 0);
  const int64_t end = std::max(start, position("end", rank));
  const std::vector<int64_t> dims = from.to_vector();
  importer.bind_literal(node, 0, Literal::integers({dims.begin() + start, dims.begin() + end}));
}

void size(Importer& importer, OnnxNode& node) {
  importer.bind_literal(node, 0, integer_scalar(importer.type(node.inputs.at(0)).shape.elements()));
}

void range(Importer& importer, OnnxNode& node) {
  std::vector<Literal> operands;
  for (size_t i = 0; i < 3; ++i) {
    operands.push_back(importer.require_content(node, i, "length of the range"));
    if (operands[i].shape().elements() != 1)
      node.fail(ErrorId::M032,
                fmt::format("input {} has {} elements, one is needed", i, operands[i].shape().elements()));
    if (operands[i].dtype() != operands[0].dtype()) node.fail(ErrorId::M030, "its inputs are of different types");
  }
  const DType dtype = operands[0].dtype();
  const int64_t count = range_count(node, operands[0], operands[1], operands[2]);
  const auto shape = checked_shape(std::span(&count, 1), dtype);
  if (!shape) node.fail(ErrorId::M051, fmt::format("the range has {} elements", count));
  importer.count_folded(node, byte_size(*shape, dtype));
  const auto element_bytes = static_cast<size_t>(dtype_bytes(dtype));
  std::vector<std::byte> bytes(static_cast<size_t>(byte_size(*shape, dtype)));
  for (int64_t i = 0; i < count; ++i) {
    std::byte* out = bytes.data() + static_cast<size_t>(i) * element_bytes;
    if (is_float(dtype)) {
      write_number(dtype, out, operands[0].number(0) + static_cast<double>(i) * operands[2].number(0));
    } else {
      write_integer(dtype, out, operands[0].integer(0) + i * operands[2].integer(0));
    }
  }
  importer.bind(node, 0, importer.add_literal(node.outputs[0], Literal(dtype, *shape, std::move(bytes))));
}

void eye_like(Importer& importer, OnnxNode& node) {
  const TensorType& like = importer.type(node.inputs.at(0));
  if (like.shape.rank() != 2)
    node.fail(ErrorId::M032, fmt::format("input 0 has shape {}, rank 2 is needed", to_string(like.shape)));
  const DType dtype = node.attributes.has("dtype") ? dtype_of(node, node.attributes.integer("dtype")) : like.dtype;
  const auto shape = checked_shape(like.shape.dims(), dtype);
  if (!shape) node.fail(ErrorId::M051, "the result would have 2^47 bytes or more");
  importer.count_folded(node, byte_size(*shape, dtype));
  const int64_t k = node.integer("k", 0);
  const int64_t columns = like.shape[1];
  const auto element_bytes = dtype_bytes(dtype);
  std::vector<std::byte> bytes(static_cast<size_t>(byte_size(*shape, dtype)));
  for (int64_t row = 0; row < like.shape[0]; ++row) {
    const auto column = checked_add(row, k);
    if (column && *column >= 0 && *column < columns)
      write_number(dtype, bytes.data() + (row * columns + *column) * element_bytes, 1);
  }
  importer.bind(node, 0, importer.add_literal(node.outputs[0], Literal(dtype, *shape, std::move(bytes))));
}

void cast(Importer& importer, OnnxNode& node) {
  const Attribute* to = node.attributes.find("to");
  if (to == nullptr) node.fail(ErrorId::M031, "attribute 'to' is required");
  DType dtype = DType::f32;
  if (const auto* name = std::get_if<std::string>(to)) {  // opset 1..5
    const auto parsed = parse_onnx_type(*name);
    if (!parsed) node.fail(ErrorId::M041, fmt::format("data type '{}' is not supported", escaped(*name, 60)));
    dtype = *parsed;
  } else {
    dtype = dtype_of(node, node.attributes.integer("to"));
  }
  importer.emit_results(node, OpKind::Cast, node.inputs, {{"to", std::string(dtype_name(dtype))}});
}

void cast_like(Importer& importer, OnnxNode& node) {
  if (node.inputs.size() != 2) node.fail(ErrorId::M022, fmt::format("has {} inputs, 2 are needed", node.inputs.size()));
  const std::string to(dtype_name(importer.type(node.inputs[1]).dtype));
  importer.emit_results(node, OpKind::Cast, {node.inputs[0]}, {{"to", to}});
}

}  // namespace mpc::onnx_io::rules
