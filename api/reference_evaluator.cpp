#include "api/reference_evaluator.h"

#include <utility>

#include "executor/kernel.h"

namespace mpc {

std::vector<Literal> ReferenceEvaluator::evaluate(OpKind op, const Attributes& attributes,
                                                  const std::vector<std::optional<Literal>>& inputs,
                                                  const std::vector<TensorType>& outputs) const {
  // Kernels never write to their operands: the views point into copies only because TensorView is not const.
  std::vector<std::vector<std::byte>> input_bytes(inputs.size());
  std::vector<std::vector<std::byte>> output_bytes(outputs.size());
  std::vector<TensorView> input_views(inputs.size());
  std::vector<TensorView> output_views(outputs.size());
  std::byte none{};  // what an operand without elements points to: a null pointer would mean that it is absent
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i]) continue;
    input_bytes[i] = inputs[i]->dense();
    input_views[i] = {inputs[i]->dtype(), inputs[i]->shape(), input_bytes[i].empty() ? &none : input_bytes[i].data()};
  }
  std::vector<std::optional<TensorType>> input_types(inputs.size());
  std::vector<std::optional<TensorType>> output_types(outputs.begin(), outputs.end());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i]) input_types[i] = TensorType{inputs[i]->dtype(), inputs[i]->shape()};
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    output_bytes[i].resize(static_cast<size_t>(byte_size(outputs[i].shape, outputs[i].dtype)));
    output_views[i] = {outputs[i].dtype, outputs[i].shape, output_bytes[i].empty() ? &none : output_bytes[i].data()};
  }
  const OpQuantities quantities = op_quantities(op, {attributes, input_types, output_types});
  std::vector<std::byte> workspace(static_cast<size_t>(quantities.workspace_bytes));
  reference_kernel(op)(
      {.attributes = attributes, .inputs = input_views, .outputs = output_views, .step = {}, .workspace = workspace});
  std::vector<Literal> results;
  for (size_t i = 0; i < outputs.size(); ++i) {
    results.emplace_back(outputs[i].dtype, outputs[i].shape, std::move(output_bytes[i]));
  }
  return results;
}

}  // namespace mpc
