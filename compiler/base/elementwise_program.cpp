#include "compiler/base/elementwise_program.h"

#include <algorithm>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/text.h"

namespace mpc {
namespace {

// What computes one element of its result from one element of each operand, in f32. Left out are IsInf, IsNaN and Mod:
// no network's time is spent there.
constexpr OpKind kSteps[] = {OpKind::Abs,
                             OpKind::Acos,
                             OpKind::Acosh,
                             OpKind::Add,
                             OpKind::And,
                             OpKind::Asin,
                             OpKind::Asinh,
                             OpKind::Atan,
                             OpKind::Atanh,
                             OpKind::Cast,
                             OpKind::Ceil,
                             OpKind::Celu,
                             OpKind::Clip,
                             OpKind::Cos,
                             OpKind::Cosh,
                             OpKind::Div,
                             OpKind::Elu,
                             OpKind::Equal,
                             OpKind::Erf,
                             OpKind::Exp,
                             OpKind::Floor,
                             OpKind::Gelu,
                             OpKind::Greater,
                             OpKind::GreaterOrEqual,
                             OpKind::HardSigmoid,
                             OpKind::HardSwish,
                             OpKind::LeakyRelu,
                             OpKind::Less,
                             OpKind::LessOrEqual,
                             OpKind::Log,
                             OpKind::Max,
                             OpKind::Min,
                             OpKind::Mish,
                             OpKind::Mul,
                             OpKind::Neg,
                             OpKind::Not,
                             OpKind::Or,
                             OpKind::PRelu,
                             OpKind::Pow,
                             OpKind::Reciprocal,
                             OpKind::Relu,
                             OpKind::Round,
                             OpKind::Selu,
                             OpKind::Shrink,
                             OpKind::Sigmoid,
                             OpKind::Sign,
                             OpKind::Sin,
                             OpKind::Sinh,
                             OpKind::Softplus,
                             OpKind::Softsign,
                             OpKind::Sqrt,
                             OpKind::Sub,
                             OpKind::Tan,
                             OpKind::Tanh,
                             OpKind::ThresholdedRelu,
                             OpKind::UnaryGrad,
                             OpKind::Where,
                             OpKind::Xor};

std::string text_of(const Attribute& value) {
  if (const auto* integer = std::get_if<int64_t>(&value)) return std::to_string(*integer);
  if (const auto* word = std::get_if<std::string>(&value)) return *word;
  const auto* number = std::get_if<double>(&value);
  MPC_CHECK(number != nullptr, "attributes of elementwise operators are integers, numbers and words");
  const std::string text = number_text(*number);
  const bool looks_whole = text.find_first_not_of("-0123456789") == std::string::npos;
  return looks_whole ? text + ".0" : text;
}

Attribute attribute_of(std::string_view text) {
  if (const auto integer = parse_integer(text)) return *integer;
  if (const auto number = parse_number(text)) return *number;
  return std::string(text);
}

class StepParser {
 public:
  StepParser(const std::string& where, int step, int input_count)
      : where_(where), step_(step), most_operand_(input_count + step) {}

  ElementwiseStep parse(const std::string& text) const {
    const std::vector<std::string> words = split(text, ' ');
    if (words.size() < 3) fail(text, "has no dtype, operator and operand");
    const auto dtype = parse_dtype(words[0]);
    const auto op = find_op(words[1]);
    if (!dtype || !can_be_step_type(*dtype)) fail(text, "gives a type that steps do not have");
    if (!op || !can_be_step(*op)) fail(text, "is of no operator that can be a step");
    ElementwiseStep step{*op, *dtype, {}, {}};
    for (size_t i = 2; i < words.size(); ++i) {
      const size_t equals = words[i].find('=');
      if (equals == std::string::npos) {
        step.operands.push_back(operand(text, words[i]));
      } else {
        step.attributes.set(words[i].substr(0, equals), attribute_of(std::string_view(words[i]).substr(equals + 1)));
      }
    }
    return step;
  }

 private:
  [[noreturn]] void fail(const std::string& text, const std::string& what) const {
    throw Error(ErrorId::M031, where_, fmt::format("step {} ({}) {}", step_, in_quotes(text.substr(0, 100)), what));
  }

  int operand(const std::string& text, const std::string& word) const {
    if (word == "-") return ElementwiseStep::kAbsent;
    const auto index = parse_integer(word);
    if (!index || *index < 0 || *index >= most_operand_)
      fail(text, fmt::format("reads operand {}, of {}", in_quotes(word), most_operand_));
    return static_cast<int>(*index);
  }

  const std::string& where_;
  int step_;
  int most_operand_;
};

}  // namespace

bool can_be_step(OpKind op) {
  return std::ranges::find(kSteps, op) != std::end(kSteps);
}

bool can_be_step_type(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::boolean;
}

std::vector<std::string> print_steps(const std::vector<ElementwiseStep>& steps) {
  std::vector<std::string> texts;
  for (const ElementwiseStep& step : steps) {
    std::string text = fmt::format("{} {}", dtype_name(step.dtype), op_name(step.op));
    for (const int operand : step.operands)
      text += operand == ElementwiseStep::kAbsent ? " -" : fmt::format(" {}", operand);
    for (const auto& [name, value] : step.attributes.items()) text += fmt::format(" {}={}", name, text_of(value));
    texts.push_back(std::move(text));
  }
  return texts;
}

std::vector<ElementwiseStep> parse_steps(const std::string& where, const std::vector<std::string>& texts,
                                         int input_count) {
  if (texts.empty() || texts.size() > kMostElementwiseSteps) {
    throw Error(ErrorId::M031, where,
                fmt::format("has {} steps, must have 1 to {}", texts.size(), kMostElementwiseSteps));
  }
  std::vector<ElementwiseStep> steps;
  for (const std::string& text : texts)
    steps.push_back(StepParser(where, static_cast<int>(steps.size()), input_count).parse(text));
  return steps;
}

}  // namespace mpc
