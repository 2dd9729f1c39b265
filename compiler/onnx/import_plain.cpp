#include <algorithm>

#include <fmt/format.h>
#include <onnx/defs/schema.h>

#include "compiler/onnx/importer.h"
#include "compiler/onnx/types.h"

// Importing a node as the IR's op of the same name.

namespace mpc::onnx_io {
namespace {

constexpr int64_t kMaxListElements = 65'536;  // as many as a node may have results: Split has the longest lists

Attribute to_static_attribute(const OnnxNode& node, OpKind op, size_t input, const AttributeSpec& specification,
                              const Literal& literal) {
  const std::string& name = std::string(specification.name);
  const bool wants_number = specification.type == AttributeType::number || specification.type == AttributeType::numbers;
  const bool is_list = specification.type == AttributeType::integers || specification.type == AttributeType::numbers;
  const bool may_round = op == OpKind::OneHot;  // ONNX lets its depth be of any numeric type
  if (!wants_number && !is_integer(literal.dtype()) && !may_round) {
    node.fail(ErrorId::M030, fmt::format("input {} ('{}') is {}, an integer type is needed", input, name,
                                         dtype_name(literal.dtype())));
  }
  if (literal.shape().rank() > 1)
    node.fail(ErrorId::M032,
              fmt::format("input {} ('{}') has shape {}, rank 1 is needed", input, name, to_string(literal.shape())));
  const int64_t count = literal.shape().elements();
  if (!is_list && count != 1)
    node.fail(ErrorId::M033, fmt::format("input {} ('{}') has {} elements, one is needed", input, name, count));
  if (count > kMaxListElements)
    node.fail(ErrorId::M051, fmt::format("input {} ('{}') has {} elements, at most {} are allowed", input, name, count,
                                         kMaxListElements));
  switch (specification.type) {
    case AttributeType::integer:
      return literal.integer(0);
    case AttributeType::number:
      return literal.number(0);
    case AttributeType::integers:
      return literal.to_integers();
    default:
      break;
  }
  std::vector<double> numbers;
  for (int64_t i = 0; i < count; ++i) numbers.push_back(literal.number(i));
  return numbers;
}

bool is_onnx_default(const pb::OpSchema& schema, const pb::AttributeProto& attribute) {
  const auto it = schema.attributes().find(attribute.name());
  if (it == schema.attributes().end()) return false;
  const pb::AttributeProto& normal = it->second.default_value;
  return normal.type() == attribute.type() && normal.i() == attribute.i() && normal.f() == attribute.f() &&
         normal.s() == attribute.s() && std::ranges::equal(normal.ints(), attribute.ints()) &&
         std::ranges::equal(normal.floats(), attribute.floats());
}

/// Attributes that the IR does not have may be left out when they say what ONNX does without them.
void drop_defaults(OnnxNode& node, const OpDef& definition) {
  const auto version = static_cast<int>(node.opset());
  const pb::OpSchema* schema = pb::OpSchemaRegistry::Schema(node.op, version);
  for (const auto& attribute : node.proto->attribute()) {
    const std::string& name = attribute.name();
    const auto is_it = [&](const AttributeSpec& specification) { return specification.name == name; };
    if (!node.attributes.has(name) || std::ranges::any_of(definition.attributes, is_it)) continue;
    // The first opset told executors which operands they might overwrite.
    const bool means_nothing = name == "consumed_inputs";
    if (!means_nothing && (schema == nullptr || !is_onnx_default(*schema, attribute))) {
      node.fail(ErrorId::M046, fmt::format("attribute '{}' is supported with its default value only", name));
    }
    node.attributes.erase(name);
  }
}

}  // namespace

void Importer::import_plain(OnnxNode& node, OpKind op) {
  const OpDef& definition = op_def(op);
  drop_defaults(node, definition);
  std::vector<Slot> inputs = node.inputs;
  std::vector<bool> is_static(inputs.size(), false);
  for (const StaticOperand& operand : definition.static_operands) {
    const auto position = static_cast<size_t>(operand.onnx_input);
    if (position >= inputs.size()) continue;
    is_static[position] = true;
    if (inputs[position] == kAbsent) continue;
    const auto specification = std::ranges::find(definition.attributes, operand.attribute, &AttributeSpec::name);
    MPC_CHECK(specification != definition.attributes.end(), "a static operand has an attribute");
    const Literal literal = require_content(node, position, operand.attribute);
    node.attributes.set(operand.attribute, to_static_attribute(node, op, position, *specification, literal));
  }
  std::vector<Slot> operands;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!is_static[i]) operands.push_back(inputs[i]);
  }
  emit_results(node, op, operands, node.attributes);
}

}  // namespace mpc::onnx_io
