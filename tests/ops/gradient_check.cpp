#include "tests/ops/gradient_check.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "compiler/ops/builder.h"
#include "compiler/ops/gradient.h"
#include "tests/ops/cases.h"
#include "tests/support/interpreter.h"

namespace mpc::test {
namespace {

// For numbers around 1 the truncation error is of the order h^2 = 1e-10 and the rounding error 1e-16 / h = 1e-11, both
// far below the usual tolerance of 1e-6. It does not grow with the operand, since the curvature of most functions does
// not shrink with it.
constexpr double kStep = 1e-5;

// One node of the sample's op over graph inputs, with weights as the gradients of its results.
struct Problem {
  Graph graph;
  NodeId node;
  std::vector<ValueId> output_grads;
  std::vector<bool> is_differentiable;  // per operand
  Bindings bindings;
  Tensors operands;
};

std::vector<double> loss_weights(size_t count, size_t output) {
  std::vector<double> weights(count);
  // Multiples of the golden ratio modulo 1: spread evenly, and no two alike.
  for (size_t i = 0; i < count; ++i)
    weights[i] = 0.5 + std::fmod(0.6180339887498949 * static_cast<double>(i + 7 * output + 1), 1.0);
  return weights;
}

bool may_have_gradient(const OpDef& def, const Tensors& operands, size_t i) {
  return operands[i] && is_float(operands[i]->dtype()) &&
         std::ranges::find(def.no_gradient_inputs, static_cast<int>(i)) == def.no_gradient_inputs.end();
}

Problem make_problem(const samples::Sample& sample) {
  Problem problem;
  problem.operands = operands_of(sample, samples::Floats::f64);
  std::vector<ValueId> inputs;
  for (size_t i = 0; i < problem.operands.size(); ++i) {
    const auto& operand = problem.operands[i];
    problem.is_differentiable.push_back(may_have_gradient(op_def(sample.op), problem.operands, i));
    inputs.push_back(operand ? problem.graph.add_input("x" + std::to_string(i), operand->dtype(), operand->shape())
                             : ValueId{});
    if (operand) problem.bindings.emplace_back(inputs.back(), *operand);
  }
  NodeInfo info;
  info.name = "node";
  for (size_t i = 0; i < sample.outputs.size(); ++i)
    info.output_names.push_back(sample.outputs[i] ? "y" + std::to_string(i) : "");
  problem.node = append(problem.graph, sample.op, inputs, sample.attributes, info);

  const std::vector<ValueId> outputs = problem.graph.node(problem.node).outputs;
  for (size_t i = 0; i < outputs.size(); ++i) {
    ValueId grad;
    if (outputs[i].is_valid() && is_float(problem.graph.value(outputs[i]).dtype)) {
      const DType dtype = problem.graph.value(outputs[i]).dtype;
      const Shape shape = problem.graph.value(outputs[i]).shape;
      grad = problem.graph.add_input("dy" + std::to_string(i), dtype, shape);
      problem.bindings.emplace_back(grad,
                                    literal_of(dtype, shape, loss_weights(static_cast<size_t>(shape.elements()), i)));
    }
    problem.output_grads.push_back(grad);
  }
  return problem;
}

// The gradients that the rule gives for the operands in `needs`. @pre `problem` is a copy of its own.
Tensors gradients_by_rule(Problem problem, OpKind op, const std::vector<bool>& needs) {
  GradientContext context(problem.graph, problem.node, problem.output_grads, needs);
  op_def(op).gradient(context);
  const StepValues values = interpret(problem.graph, {}, {problem.bindings});
  Tensors gradients;
  for (const ValueId id : context.input_grads()) {
    gradients.push_back(id.is_valid() ? std::optional(values.at(problem.graph, id)) : std::nullopt);
  }
  return gradients;
}

double loss(const Problem& problem, const Tensors& operands) {
  const Node& node = problem.graph.node(problem.node);
  const Tensors results = run_reference(node.op, node.attributes, operands, mpc::types_of(problem.graph, node.outputs));
  double total = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    if (!problem.output_grads[i].is_valid()) continue;
    const std::vector<double> numbers = numbers_of(*results[i]);
    const std::vector<double> weights = loss_weights(numbers.size(), i);
    for (size_t k = 0; k < numbers.size(); ++k) total += weights[k] * numbers[k];
  }
  return total;
}

std::vector<double> finite_differences(const Problem& problem, size_t operand) {
  Tensors operands = problem.operands;
  const Literal original = *operands[operand];
  std::vector<double> numbers = numbers_of(original);
  std::vector<double> differences(numbers.size());
  for (size_t k = 0; k < numbers.size(); ++k) {
    const double center = numbers[k];
    const auto loss_at = [&](double x) {
      numbers[k] = x;
      operands[operand] = literal_of(original.dtype(), original.shape(), numbers);
      return loss(problem, operands);
    };
    differences[k] = (loss_at(center + kStep) - loss_at(center - kStep)) / ((center + kStep) - (center - kStep));
    numbers[k] = center;
  }
  return differences;
}

double norm(const std::vector<double>& values) {
  double total = 0;
  for (const double value : values) total += value * value;
  return std::sqrt(total);
}

std::optional<std::string> compare(const samples::Sample& sample, size_t operand, const std::vector<double>& rule,
                                   const std::vector<double>& differences) {
  std::vector<double> error(rule.size());
  for (size_t k = 0; k < rule.size(); ++k) error[k] = rule[k] - differences[k];
  // Where the gradient is zero the differences still carry rounding errors: norms below 1e-3 count as that.
  const double relative = norm(error) / std::max(norm(differences), 1e-3);
  if (relative <= sample.gradient_tolerance) return std::nullopt;
  const size_t worst = static_cast<size_t>(
      std::ranges::max_element(error, {}, [](double e) { return std::isnan(e) ? INFINITY : std::fabs(e); }) -
      error.begin());
  return fmt::format(
      "the gradient of operand {} is off by {:.3g}; worst at element {}: the rule gives {}, differences give {}",
      operand, relative, worst, rule[worst], differences[worst]);
}

}  // namespace

bool has_gradient_check(const samples::Sample& sample) {
  const OpDef& def = op_def(sample.op);
  if (!sample.check_gradient || def.differentiable != Differentiable::yes) return false;
  bool has_float = false;
  for (size_t i = 0; i < sample.inputs.size(); ++i) {
    const auto& operand = sample.inputs[i];
    if (!operand || !is_float(operand->dtype)) continue;
    if (operand->dtype != DType::f32) return false;
    has_float =
        has_float || std::ranges::find(def.no_gradient_inputs, static_cast<int>(i)) == def.no_gradient_inputs.end();
  }
  return has_float;
}

std::optional<std::string> check_gradient(const samples::Sample& sample) {
  const Problem problem = make_problem(sample);
  const bool has_output_grad = std::ranges::any_of(problem.output_grads, &ValueId::is_valid);
  if (!has_output_grad) return "no result of the sample is a float";
  const Tensors together = gradients_by_rule(problem, sample.op, problem.is_differentiable);
  for (size_t i = 0; i < problem.operands.size(); ++i) {
    if (!problem.is_differentiable[i]) {
      if (together[i]) return fmt::format("the rule gives a gradient for operand {}, which was not asked for", i);
      continue;
    }
    const std::vector<double> differences = finite_differences(problem, i);
    // A rule may leave out a gradient that is zero everywhere.
    const std::vector<double> rule = together[i] ? numbers_of(*together[i]) : std::vector<double>(differences.size());
    if (auto wrong = compare(sample, i, rule, differences)) return wrong;

    std::vector<bool> only(problem.operands.size());
    only[i] = true;
    const Tensors alone = gradients_by_rule(problem, sample.op, only);
    if (alone[i] != together[i]) return fmt::format("the gradient of operand {} differs when it alone is asked for", i);
  }
  return std::nullopt;
}

bool takes_f64(const samples::Sample& sample) {
  const Case as_stated = case_of(sample);
  const bool has_f32 =
      std::ranges::any_of(as_stated.inputs, [](const auto& input) { return input && input->dtype() == DType::f32; });
  if (!has_f32) return false;
  const OpDef& def = op_def(sample.op);
  const bool is_fused_product =
      sample.inputs.size() > (sample.op == OpKind::Gemm ? 3u : 2u) || sample.attributes.has("activation");
  if ((sample.op == OpKind::MatMul || sample.op == OpKind::Gemm) && is_fused_product) return false;  // f32 and 16 bits
  const bool has_mask = sample.op == OpKind::ScaledDotProductAttention && sample.inputs.size() % 2 == 0;
  if (has_mask && as_stated.inputs[0]->dtype() != DType::f32) return false;  // a mask in f32 is of 16 bits
  if (sample.attributes.has("rounded")) return false;                        // of f32 alone
  // The scalars of an optimizer are f32 whatever the parameter is; what has gradient rules takes one float type.
  return def.differentiable == Differentiable::yes || has_gradient_check(sample);
}

}  // namespace mpc::test
