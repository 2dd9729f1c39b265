#include "executor/cuda/fused_source.h"

#include <array>
#include <cstdio>

#include "compiler/base/elementwise_program.h"
#include "compiler/base/half.h"
#include "executor/cuda/data.h"
#include "executor/functors/parameters_of.h"
#include "executor/functors/unary.h"

namespace mpc::cuda {
namespace {

using std::to_string;

const char* element_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float";
    case DType::bf16:
      return "mpc::bf16";
    case DType::f16:
      return "mpc::f16";
    default:  // bool
      return "uint8_t";
  }
}

/// An element as the float that steps compute with.
std::string loaded(const std::string& element, DType dtype) {
  if (dtype == DType::f32) return element;
  if (dtype == DType::boolean) return "(" + element + " != 0 ? 1.0f : 0.0f)";
  return "to_float(" + element + ")";
}

std::string rounded(const std::string& value, DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return "to_float(to_bf16(" + value + "))";
    case DType::f16:
      return "to_float(to_f16(" + value + "))";
    case DType::boolean:
      return "(" + value + ") != 0 ? 1.0f : 0.0f";
    default:
      return value;
  }
}

std::string stored(const std::string& value, DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return "to_bf16(" + value + ")";
    case DType::f16:
      return "to_f16(" + value + ")";
    case DType::boolean:
      return value + " != 0 ? 1 : 0";
    default:
      return value;
  }
}

/// Exactly, and also what has no literal (infinities).
std::string constant(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "float_of_bits(0x%08xu)", float_bits(static_cast<float>(value)));
  return text;
}

std::string parameters(OpKind function, const Attributes& attributes) {
  const functors::Parameters<double> p = functors::parameters_of(function, attributes);
  return "functors::Parameters<float>{" + constant(p.a) + ", " + constant(p.b) + "}";
}

bool is_function(OpKind op) {
  switch (op) {
#define MPC_CASE(name) case OpKind::name:
    MPC_UNARY(MPC_CASE)
#undef MPC_CASE
    return true;
    default:
      return false;
  }
}

std::string value_of(const ElementwiseStep& step) {
  // An absent operand of a gradient is one that the functor ignores.
  const auto operand = [&](size_t k) {
    const bool is_there = k < step.operands.size() && step.operands[k] != ElementwiseStep::kAbsent;
    return "v" + to_string(step.operands[is_there ? k : 0]);
  };
  if (step.op == OpKind::UnaryGrad) {
    const std::string& function = step.attributes.text("function");
    return "functors::" + function + "::gradient(" + operand(0) + ", " + operand(1) + ", " + operand(2) + ", " +
           parameters(*find_op(function), step.attributes) + ")";
  }
  if (step.op == OpKind::Cast) return operand(0);  // rounding does it
  if (step.op == OpKind::Not) return operand(0) + " == 0 ? 1.0f : 0.0f";
  if (step.op == OpKind::Where) return operand(0) + " != 0 ? " + operand(1) + " : " + operand(2);
  const std::string functor = "functors::" + std::string(op_name(step.op)) + "::value(";
  if (is_function(step.op)) return functor + operand(0) + ", " + parameters(step.op, step.attributes) + ")";
  return "static_cast<float>(" + functor + operand(0) + ", " + operand(1) + "))";
}

/// Where inputs have the element that belongs to element i of the result.
class Positions {
 public:
  Positions(const executor::NodeSpec& node, const std::string& index_type) : type_(index_type) {
    std::array<Steps, kMostElementwiseInputs> steps{};
    // An input that is not there goes as the first does, so that it keeps no dimensions apart.
    for (size_t k = 0; k < steps.size(); ++k) {
      steps[k] = broadcast_steps(node.inputs[k < node.inputs.size() ? k : 0].shape, node.outputs[0].shape);
    }
    walk_ = make_walk<kMostElementwiseInputs>(node.outputs[0].shape, steps);
  }

  /// The statements that split i into the index of each dimension.
  std::string split() const {
    std::string text;
    std::string rest = "i";
    for (int d = walk_.rank - 1; d > 0; --d) {
      const std::string count = to_string(walk_.count[d]) + "u";
      text += "  const " + type_ + " x" + to_string(d) + " = " + rest + " % " + count + ";\n";
      text += "  const " + type_ + " r" + to_string(d) + " = " + rest + " / " + count + ";\n";
      rest = "r" + to_string(d);
    }
    return walk_.rank > 0 ? text + "  const " + type_ + " x0 = " + rest + ";\n" : text;
  }

  std::string of(size_t input) const {
    if (is_dense(input)) return "i";
    std::string text;
    for (int d = 0; d < walk_.rank; ++d) {
      const int64_t step = walk_.step[input][d];
      if (step != 0) text += (text.empty() ? "x" : " + x") + to_string(d) + " * " + to_string(step) + "u";
    }
    return text.empty() ? "0" : text;
  }

 private:
  bool is_dense(size_t input) const {
    int64_t dense = 1;
    for (int d = walk_.rank - 1; d >= 0; --d) {
      if (walk_.step[input][d] != dense) return false;
      dense *= walk_.count[d];
    }
    return true;
  }

  std::string type_;
  Walk<kMostElementwiseInputs> walk_;
};

}  // namespace

std::string fused_source(const executor::NodeSpec& node, const std::string& name) {
  const size_t inputs = node.inputs.size();
  const auto steps = parse_steps("Elementwise", node.attributes->texts("steps"), static_cast<int>(inputs));
  const DType result = output_dtype(node, 0);
  const int64_t elements = node.outputs[0].shape.elements();
  // Below 2^31 an index and the next one of its thread fit into 32 bits, whose division is several times faster.
  const std::string index = elements < int64_t{1} << 31 ? "uint32_t" : "uint64_t";
  const Positions positions(node, index);

  std::string operands;  // of the function for one element
  std::string erased;    // of the function that is called
  std::string casts;
  for (size_t k = 0; k < inputs; ++k) {
    const std::string in = "in" + to_string(k);
    const std::string type = "const " + std::string(element_type(node.inputs[k].dtype)) + "*";
    operands += type + " " + in + ", ";
    erased += "const void* " + in + ", ";
    casts += "static_cast<" + type + ">(" + in + "), ";
  }
  operands += std::string(element_type(result)) + "* out, " + index + " i";
  erased += "void* out";
  casts += "static_cast<" + std::string(element_type(result)) + "*>(out), i";

  std::string text =
      "#include \"executor/functors/binary.h\"\n#include \"executor/functors/unary.h\"\n\nnamespace mpc {\n";
  text += "MPC_HD inline void " + name + "_element(" + operands + ") {\n" + positions.split();
  for (size_t k = 0; k < inputs; ++k) {
    const std::string element = "in" + to_string(k) + "[" + positions.of(k) + "]";
    text += "  const float v" + to_string(k) + " = " + loaded(element, node.inputs[k].dtype) + ";\n";
  }
  for (size_t s = 0; s < steps.size(); ++s) {
    text += "  const float v" + to_string(inputs + s) + " = " + rounded(value_of(steps[s]), steps[s].dtype) + ";\n";
  }
  text += "  out[i] = " + stored("v" + to_string(inputs + steps.size() - 1), result) + ";\n}\n}  // namespace mpc\n\n";

  const std::string call = "mpc::" + name + "_element(" + casts + ");\n";
  const std::string end = to_string(elements) + "u";
  const std::string threads = to_string(kFusedThreads);
  text += "#ifdef __CUDACC__\nextern \"C\" __global__ void __launch_bounds__(" + threads + ") " + name + "(" + erased +
          ") {\n  const " + index + " step = static_cast<" + index + ">(gridDim.x) * " + threads + ";\n  for (" +
          index + " i = static_cast<" + index + ">(blockIdx.x) * " + threads + " + threadIdx.x; i < " + end +
          "; i += step)\n    " + call + "}\n#else\nextern \"C\" void " + name + "(" + erased + ") {\n  for (" + index +
          " i = 0; i < " + end + "; ++i)\n    " + call + "}\n#endif\n";
  return text;
}

}  // namespace mpc::cuda
