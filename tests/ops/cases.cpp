#include "tests/ops/cases.h"

namespace mpc::test {
namespace {

executor::NodeSpec::Operand operand(const std::optional<TensorType>& type) {
  if (!type) return {};
  return {type->dtype, type->shape, true, false};
}

}  // namespace

std::string full_name(const samples::Sample& sample) {
  return std::string(op_name(sample.op)) + ": " + sample.name;
}

Case case_of(const samples::Sample& sample, samples::Floats floats) {
  Case result{sample.attributes, operands_of(sample, floats), {}};
  result.outputs = infer_types(sample.op, full_name(sample), result.attributes, types_of(result.inputs),
                               static_cast<int>(sample.outputs.size()));
  for (size_t i = 0; i < sample.outputs.size(); ++i) {
    if (!sample.outputs[i]) result.outputs[i].reset();
  }
  return result;
}

executor::NodeSpec node_of(OpKind op, const Attributes& attributes, const Tensors& inputs, const Types& outputs) {
  executor::NodeSpec node;
  node.op = op;
  node.attributes = &attributes;
  for (const auto& type : types_of(inputs)) node.inputs.push_back(operand(type));
  for (const auto& type : outputs) node.outputs.push_back(operand(type));
  return node;
}

}  // namespace mpc::test
