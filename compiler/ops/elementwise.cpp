// Elementwise: up to 16 elementwise operators in one pass over memory (compiler/base/elementwise_program.h). Every
// step's result has the shape of the node's; inputs broadcast to it. FLOPs are those of the steps. passes/fuse makes
// these nodes after differentiation, so there is no gradient. `origins` names the nodes that the steps came from, one
// each, or nothing.

#include <algorithm>

#include <fmt/format.h>

#include "compiler/base/elementwise_program.h"
#include "compiler/ops/op_def.h"

namespace mpc::ops {
namespace {

using Types = std::vector<std::optional<TensorType>>;

/// The operands of a step among the types of the node's inputs and of the steps before.
Types operands_of(const ElementwiseStep& step, const Types& known) {
  Types operands;
  for (const int operand : step.operands) {
    operands.push_back(operand == ElementwiseStep::kAbsent ? std::nullopt : known[static_cast<size_t>(operand)]);
  }
  return operands;
}

void infer_elementwise(InferContext& context) {
  const std::string where = "Elementwise";
  Types known;
  for (int i = 0; i < context.input_count(); ++i) {
    if (!context.has_input(i)) context.fail(ErrorId::M022, fmt::format("input {} is absent", i));
    if (!can_be_step_type(context.input(i).dtype)) {
      context.fail(ErrorId::M030, fmt::format("input {} is {}, steps have f32, f16, bf16 and bool", i,
                                              dtype_name(context.input(i).dtype)));
    }
    known.push_back(context.input(i));
  }
  std::vector<ElementwiseStep> steps = parse_steps(where, context.attributes().texts("steps"), context.input_count());
  std::vector<bool> is_read(known.size() + steps.size(), false);
  for (size_t s = 0; s < steps.size(); ++s) {
    ElementwiseStep& step = steps[s];
    const Types result =
        infer_types(step.op, fmt::format("{} step {}", where, s), step.attributes, operands_of(step, known), 1);
    if (result[0]->dtype != step.dtype) {
      context.fail(ErrorId::M031, fmt::format("step {} says it gives {}, it gives {}", s, dtype_name(step.dtype),
                                              dtype_name(result[0]->dtype)));
    }
    for (const int operand : step.operands) {
      if (operand != ElementwiseStep::kAbsent) is_read[static_cast<size_t>(operand)] = true;
    }
    known.push_back(result[0]);
  }
  const TensorType& last = *known.back();
  for (size_t s = 0; s < steps.size(); ++s) {
    const TensorType& type = *known[static_cast<size_t>(context.input_count()) + s];
    if (type.shape != last.shape) {
      context.fail(ErrorId::M032, fmt::format("step {} gives shape {}, the result has {}", s, to_string(type.shape),
                                              to_string(last.shape)));
    }
  }
  is_read.pop_back();
  if (std::ranges::find(is_read, false) != is_read.end())
    context.fail(ErrorId::M031, "an input or a step is read by no step");
  const auto& origins = context.attributes().texts("origins");
  if (!origins.empty() && origins.size() != steps.size()) {
    context.fail(ErrorId::M031, fmt::format("has {} origins for {} steps", origins.size(), steps.size()));
  }
  context.set_attribute("steps", print_steps(steps));
  context.set_output(0, last.dtype, last.shape);
}

OpQuantities elementwise_cost(const CostContext& context) {
  Types known = context.inputs;
  OpQuantities total;
  for (const ElementwiseStep& step :
       parse_steps("Elementwise", context.attributes.texts("steps"), static_cast<int>(context.inputs.size()))) {
    const Types operands = operands_of(step, known);
    const Types result = {TensorType{step.dtype, context.output(0).shape}};
    total.flops += op_quantities(step.op, {step.attributes, operands, result}).flops;
    known.push_back(result[0]);
  }
  return total;
}

}  // namespace

extern const OpDef Elementwise_def;
const OpDef Elementwise_def = {
    .op = OpKind::Elementwise,
    .min_inputs = 1,
    .max_inputs = kMostElementwiseInputs,
    .attributes = {{.name = "origins", .type = AttributeType::texts, .default_value = std::vector<std::string>{}},
                   {.name = "steps", .type = AttributeType::texts}},
    .infer = infer_elementwise,
    .differentiable = Differentiable::no,
    .cost = elementwise_cost,
};

}  // namespace mpc::ops
