// Elementwise: a program of elementwise operators, walked by every thread for its element. The program is a parameter
// of the launch, so all threads take the same branches and read it from constant memory; what steps give stays with the
// thread. Steps are the functors that the operators have alone, in f32, each rounded to its dtype.

#include "compiler/base/elementwise_program.h"
#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/rounded.h"
#include "executor/functors/binary.h"
#include "executor/functors/parameters_of.h"
#include "executor/functors/unary.h"

namespace mpc::cuda {
namespace {

using functors::Parameters;

enum class StepKind : uint8_t { function, gradient, two_operands };

struct Step {
  OpKind op;  // gradient: the function whose gradient it is
  StepKind kind;
  DType dtype;
  int8_t operands[3];  // an absent one of a gradient is the first, which the gradient then ignores
  Parameters<float> parameters;
};

/// An element of any type that steps have; bool is 0 or 1.
MPC_DEVICE inline float element(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::boolean) return static_cast<const uint8_t*>(data)[i] != 0 ? 1.0f : 0.0f;
  return FloatIn{data, dtype}[i];
}

MPC_DEVICE inline float function_value(OpKind op, float x, Parameters<float> parameters) {
  switch (op) {
#define MPC_CASE(name) \
  case OpKind::name:   \
    return functors::name::value(x, parameters);
    MPC_UNARY(MPC_CASE)
#undef MPC_CASE
    case OpKind::Not:
      return x == 0 ? 1.0f : 0.0f;
    default:  // Cast: rounding does it
      return x;
  }
}

MPC_DEVICE inline float gradient_value(OpKind op, float dy, float x, float y, Parameters<float> parameters) {
  switch (op) {
#define MPC_CASE(name) \
  case OpKind::name:   \
    return functors::name::gradient(dy, x, y, parameters);
    MPC_DIFFERENTIABLE_UNARY(MPC_CASE)
#undef MPC_CASE
    default:
      return 0;
  }
}

// clang-format off
#define MPC_TWO_OPERANDS(X)                                                                                      \
  X(Add) X(And) X(Div) X(Equal) X(Greater) X(GreaterOrEqual) X(Less) X(LessOrEqual) X(Max) X(Min) X(Mul) X(Or) X(PRelu) \
  X(Pow) X(Sub) X(Xor)
// clang-format on

MPC_DEVICE inline float value_of_two(OpKind op, float a, float b, float c) {
  switch (op) {
#define MPC_CASE(name) \
  case OpKind::name:   \
    return static_cast<float>(functors::name::value(a, b));
    MPC_TWO_OPERANDS(MPC_CASE)
#undef MPC_CASE
    default:  // Where
      return a != 0 ? b : c;
  }
}

struct RunProgram {
  static constexpr int kRegisters = kMostElementwiseInputs + kMostElementwiseSteps;
  int input_count = 0;
  int step_count = 0;
  DType dtype = DType::f32;
  const void* inputs[kMostElementwiseInputs] = {};
  DType input_dtypes[kMostElementwiseInputs] = {};
  void* result = nullptr;
  Step steps[kMostElementwiseSteps] = {};
  Walk<kMostElementwiseInputs> walk;

  MPC_DEVICE void operator()(int64_t i) const {
    float value[kRegisters];
    const auto at = walk.positions(i);
    for (int k = 0; k < input_count; ++k) value[k] = element(inputs[k], input_dtypes[k], at.at[k]);
    float last = 0;
    for (int s = 0; s < step_count; ++s) {
      const Step& step = steps[s];
      const float a = value[step.operands[0]];
      const float b = value[step.operands[1]];
      const float c = value[step.operands[2]];
      if (step.kind == StepKind::function) {
        last = function_value(step.op, a, step.parameters);
      } else if (step.kind == StepKind::gradient) {
        last = gradient_value(step.op, a, b, c, step.parameters);
      } else {
        last = value_of_two(step.op, a, b, c);
      }
      last = rounded(last, step.dtype);
      value[input_count + s] = last;
    }
    if (dtype == DType::boolean) {
      static_cast<uint8_t*>(result)[i] = last != 0 ? 1 : 0;
    } else {
      FloatOut{result, dtype}.set(i, last);
    }
  }
};

bool has_two_operands(OpKind op) {
  switch (op) {
#define MPC_CASE(name) case OpKind::name:
    MPC_TWO_OPERANDS(MPC_CASE)
#undef MPC_CASE
    case OpKind::Where:
      return true;
    default:
      return false;
  }
}

Step step_of(const ElementwiseStep& from) {
  Step step{from.op, StepKind::function, from.dtype, {0, 0, 0}, {}};
  if (from.op == OpKind::UnaryGrad) {
    step.kind = StepKind::gradient;
    step.op = *find_op(from.attributes.text("function"));
  } else if (has_two_operands(from.op)) {
    step.kind = StepKind::two_operands;
  }
  for (size_t k = 0; k < 3; ++k) {
    const bool is_present = k < from.operands.size() && from.operands[k] != ElementwiseStep::kAbsent;
    step.operands[k] = static_cast<int8_t>(is_present ? from.operands[k] : from.operands[0]);
  }
  const Parameters<double> parameters = functors::parameters_of(step.op, from.attributes);
  step.parameters = {static_cast<float>(parameters.a), static_cast<float>(parameters.b)};
  return step;
}

}  // namespace

KernelOrReason fused(const executor::NodeSpec& node, const MakeOptions&) {
  const auto steps = parse_steps("Elementwise", node.attributes->texts("steps"), static_cast<int>(node.inputs.size()));
  const Shape& shape = node.outputs[0].shape;
  RunProgram program;
  program.input_count = static_cast<int>(node.inputs.size());
  program.step_count = static_cast<int>(steps.size());
  program.dtype = output_dtype(node, 0);
  std::array<Steps, kMostElementwiseInputs> walks{};
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    program.input_dtypes[i] = input_dtype(node, i);
    walks[i] = broadcast_steps(node.inputs[i].shape, shape);
  }
  // An input that is not there goes as the first does, so that it keeps no dimensions apart.
  for (size_t i = node.inputs.size(); i < walks.size(); ++i) walks[i] = walks[0];
  program.walk = make_walk<kMostElementwiseInputs>(shape, walks);
  for (size_t s = 0; s < steps.size(); ++s) program.steps[s] = step_of(steps[s]);
  const int64_t count = shape.elements();
  return function_kernel("cuda:fused", [=](const Launch& launch) {
    RunProgram bound = program;
    for (int k = 0; k < bound.input_count; ++k) bound.inputs[k] = launch.inputs[static_cast<size_t>(k)];
    bound.result = launch.outputs[0];
    for_each(launch.stream, count, bound, "Elementwise");
  });
}

}  // namespace mpc::cuda
