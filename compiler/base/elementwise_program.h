#pragma once

#include <string>
#include <vector>

#include "compiler/base/attributes.h"
#include "compiler/base/dtype.h"
#include "compiler/base/op_kind.h"

// What an Elementwise node computes: a few elementwise operators in a row, for every element of its result. Each step
// rounds to its dtype, as the operator alone does, so the bits are those of the operators one by one.
//
// The attribute `steps` has one text per step: the dtype of the result, the operator, its operands and its attributes:
//   "f32 Add 0 1"   "f32 UnaryGrad 3 - 4 approximate=tanh function=Gelu"   "bf16 Cast 2 to=bf16"
// Operand k is input k of the node for k < its number of inputs, the result of step k - inputs from there on, and "-"
// where an optional one is absent. The last step's result is the node's. Values of attributes are integers, numbers
// (with a point or an exponent) or words.

namespace mpc {

struct ElementwiseStep {
  static constexpr int kAbsent = -1;
  OpKind op{};
  DType dtype = DType::f32;   // of the result
  std::vector<int> operands;  // kAbsent: an optional operand that is not there
  Attributes attributes;
};

/// The most a program may have: a GPU takes it as the parameter of one launch.
inline constexpr int kMostElementwiseInputs = 8;
inline constexpr int kMostElementwiseSteps = 16;

/// May the operator be a step?
bool can_be_step(OpKind op);
/// May values of the dtype be operands and results of steps? f32, f16, bf16 (computed in f32) and bool.
bool can_be_step_type(DType dtype);

/// The attribute `steps`. @pre attributes of steps are integers, numbers and words.
std::vector<std::string> print_steps(const std::vector<ElementwiseStep>& steps);
/// Reads it back; every operand comes before its step. @throws Error(M031) naming `where` and the step.
std::vector<ElementwiseStep> parse_steps(const std::string& where, const std::vector<std::string>& texts,
                                         int input_count);

}  // namespace mpc
