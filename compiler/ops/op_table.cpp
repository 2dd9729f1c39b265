#include <array>

#include <fmt/format.h>

#include "compiler/ops/op_def.h"

// Every op of ops.def has a definition named <Name>_def in namespace mpc::ops, in some file of this folder.
namespace mpc::ops {
#define MPC_OP(name, share, aliases) extern const OpDef name##_def;
#include "compiler/base/ops.def"
#undef MPC_OP
}  // namespace mpc::ops

namespace mpc {
namespace {

const std::array<const OpDef*, kOpCount>& table() {
  static constexpr std::array<const OpDef*, kOpCount> kTable = {
#define MPC_OP(name, share, aliases) &ops::name##_def,
#include "compiler/base/ops.def"
#undef MPC_OP
  };
  return kTable;
}

bool has_type(const Attribute& value, AttributeType type) {
  return value.index() == static_cast<size_t>(type);
}

std::string_view type_name(AttributeType type) {
  constexpr std::string_view kNames[] = {"an integer",         "a float",          "a string",
                                         "a list of integers", "a list of floats", "a list of strings"};
  return kNames[static_cast<size_t>(type)];
}

void check_attributes(const OpDef& def, const std::string& where, Attributes& attributes) {
  for (const auto& [name, value] : attributes.items()) {
    const AttributeSpec* spec = nullptr;
    for (const AttributeSpec& candidate : def.attributes) {
      if (candidate.name == name) spec = &candidate;
    }
    if (spec == nullptr)
      throw Error(ErrorId::M031, where, fmt::format("attribute '{}' is not one of {}", name, op_name(def.op)));
    if (!has_type(value, spec->type)) {
      throw Error(ErrorId::M031, where, fmt::format("attribute '{}' must be {}", name, type_name(spec->type)));
    }
  }
  for (const AttributeSpec& spec : def.attributes) {
    if (attributes.has(spec.name)) continue;
    if (spec.default_value) {
      attributes.set(spec.name, *spec.default_value);
    } else if (!spec.is_optional) {
      throw Error(ErrorId::M031, where, fmt::format("attribute '{}' is required", spec.name));
    }
  }
}

void check_arity(const OpDef& def, const std::string& where, const std::vector<std::optional<TensorType>>& inputs,
                 int output_count) {
  const int count = static_cast<int>(inputs.size());
  if (count < def.min_inputs || count > def.max_inputs) {
    throw Error(
        ErrorId::M022, where,
        fmt::format("has {} inputs, {} takes {} to {}", count, op_name(def.op), def.min_inputs, def.max_inputs));
  }
  for (int i = 0; i < def.min_inputs; ++i) {
    if (!inputs[static_cast<size_t>(i)]) throw Error(ErrorId::M022, where, fmt::format("input {} is required", i));
  }
  if (output_count < def.min_outputs || output_count > def.max_outputs) {
    throw Error(ErrorId::M022, where,
                fmt::format("has {} outputs, {} gives {} to {}", output_count, op_name(def.op), def.min_outputs,
                            def.max_outputs));
  }
}

}  // namespace

const OpDef& op_def(OpKind op) {
  return *table()[static_cast<size_t>(op)];
}

std::vector<std::optional<TensorType>> infer_types(OpKind op, const std::string& where, Attributes& attributes,
                                                   const std::vector<std::optional<TensorType>>& inputs,
                                                   int output_count) {
  const OpDef& def = op_def(op);
  check_attributes(def, where, attributes);
  check_arity(def, where, inputs, output_count);
  InferContext context(where, attributes, inputs, output_count);
  def.infer(context);
  return context.outputs();
}

OpQuantities op_quantities(OpKind op, const CostContext& context) {
  const OpDef& def = op_def(op);
  if (def.cost != nullptr) return def.cost(context);
  OpQuantities quantities;
  for (const auto& output : context.outputs) {
    if (output) quantities.flops += static_cast<double>(output->shape.elements());
  }
  return quantities;
}

InferContext::InferContext(std::string where, Attributes& attributes, std::vector<std::optional<TensorType>> inputs,
                           int output_count)
    : where_(std::move(where)),
      attributes_(attributes),
      inputs_(std::move(inputs)),
      outputs_(static_cast<size_t>(output_count)),
      output_count_(output_count) {}

void InferContext::set_output(int i, DType dtype, const Shape& shape) {
  if (i >= output_count_) return;
  set_output(i, dtype, shape.to_vector());
}

void InferContext::set_output(int i, DType dtype, const std::vector<int64_t>& dims) {
  if (i >= output_count_) return;
  for (const int64_t dim : dims) {
    if (dim < 0) fail(ErrorId::M032, fmt::format("output {} would have a dimension of {}", i, dim));
  }
  if (dims.size() > kMaxRank)
    fail(ErrorId::M046, fmt::format("output {} would have rank {}, at most {} is supported", i, dims.size(), kMaxRank));
  const auto shape = checked_shape(dims, dtype);
  if (!shape) fail(ErrorId::M051, fmt::format("output {} would have 2^47 bytes or more", i));
  outputs_[static_cast<size_t>(i)] = TensorType{dtype, *shape};
}

void InferContext::fail(ErrorId id, std::string message, std::string hint) const {
  throw Error(id, where_, std::move(message), std::move(hint));
}

void InferContext::require_same_dtype(int i, int j) const {
  if (input(i).dtype == input(j).dtype) return;
  fail(ErrorId::M030, fmt::format("input {} is {} and input {} is {}, they must be the same", i,
                                  dtype_name(input(i).dtype), j, dtype_name(input(j).dtype)));
}

void InferContext::require_float(int i) const {
  if (!is_float(input(i).dtype))
    fail(ErrorId::M030, fmt::format("input {} is {}, a float type is needed", i, dtype_name(input(i).dtype)));
}

void InferContext::require_rank(int i, int rank) const {
  if (input(i).shape.rank() != rank)
    fail(ErrorId::M032, fmt::format("input {} has shape {}, rank {} is needed", i, to_string(input(i).shape), rank));
}

void InferContext::require_min_rank(int i, int rank) const {
  if (input(i).shape.rank() < rank)
    fail(ErrorId::M032,
         fmt::format("input {} has shape {}, rank {} or more is needed", i, to_string(input(i).shape), rank));
}

int InferContext::axis(std::string_view attribute, int rank) const {
  const int64_t value = attributes_.integer(attribute);
  const auto normalized = normalize_axis(value, rank);
  if (!normalized)
    fail(ErrorId::M031, fmt::format("{} {} is out of range for rank {}", attribute, value, rank),
         fmt::format("use {}..{}", -rank, rank - 1));
  return *normalized;
}

Shape InferContext::broadcast_inputs(int i, int j) const {
  const auto shape = broadcast(input(i).shape, input(j).shape);
  if (!shape)
    fail(ErrorId::M032,
         fmt::format("shapes {} and {} do not broadcast", to_string(input(i).shape), to_string(input(j).shape)));
  return *shape;
}

}  // namespace mpc
