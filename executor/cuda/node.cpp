#include "executor/cuda/node.h"

#include <cstring>

#include "compiler/base/error.h"

namespace mpc::cuda {
namespace {

Attribute attribute_of(const mpc_cuda_attribute& from) {
  const size_t count = static_cast<size_t>(from.count);
  switch (from.kind) {
    case 0:
      return from.integer;
    case 1:
      return from.number;
    case 2:
      return std::string(from.text);
    case 3:
      return std::vector<int64_t>(from.integers, from.integers + count);
    case 4:
      return std::vector<double>(from.numbers, from.numbers + count);
    default:
      return std::vector<std::string>(from.texts, from.texts + count);
  }
}

executor::NodeSpec::Operand operand_of(const mpc_cuda_operand& from) {
  executor::NodeSpec::Operand operand;
  operand.dtype = static_cast<DType>(from.dtype);
  operand.shape = Shape(std::span(from.dims, static_cast<size_t>(from.rank)));
  operand.is_present = from.is_present != 0;
  return operand;
}

}  // namespace

OwnedNode::OwnedNode(const mpc_cuda_node& node) {
  const std::optional<OpKind> op = find_op(node.op);
  if (!op) throw Error(ErrorId::M040, node.op, "the CUDA plugin does not know this operator");
  spec.op = *op;
  for (int32_t i = 0; i < node.attribute_count; ++i) {
    attributes.set(node.attributes[i].name, attribute_of(node.attributes[i]));
  }
  spec.attributes = &attributes;
  for (int32_t i = 0; i < node.input_count; ++i) spec.inputs.push_back(operand_of(node.inputs[i]));
  for (int32_t i = 0; i < node.output_count; ++i) spec.outputs.push_back(operand_of(node.outputs[i]));
  allows_tf32 = std::strcmp(node.precision, "tf32") == 0;
}

}  // namespace mpc::cuda
