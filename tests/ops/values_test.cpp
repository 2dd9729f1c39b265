// Results that are known by hand, where conformance cannot tell a wrong kernel from a right one: it compares kernels
// with themselves and with their gradients, not with ONNX's definition.

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "api/reference_evaluator.h"
#include "compiler/base/error.h"
#include "tests/support/interpreter.h"

namespace mpc::test {
namespace {

using Numbers = std::vector<double>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

Literal row(Numbers numbers, DType dtype = DType::f64) {
  return literal_of(dtype, {static_cast<int64_t>(numbers.size())}, numbers);
}
Literal matrix(int64_t rows, Numbers numbers, DType dtype = DType::f64) {
  return literal_of(dtype, {rows, static_cast<int64_t>(numbers.size()) / rows}, numbers);
}
Literal scalar(double number, DType dtype) {
  return literal_of(dtype, {}, {number});
}

Tensors eval_all(OpKind op, const Tensors& inputs, Attributes attributes = {}, int outputs = 1, StepContext step = {}) {
  const Types types = infer_types(op, std::string(op_name(op)), attributes, types_of(inputs), outputs);
  return run_reference(op, attributes, inputs, types, {.step = step, .in_place = {}});
}

Literal eval(OpKind op, const Tensors& inputs, Attributes attributes = {}) {
  return *eval_all(op, inputs, std::move(attributes))[0];
}

/// The id of the error that inference or the kernel ends with, or nothing.
std::optional<ErrorId> error_of(OpKind op, const Tensors& inputs, const Attributes& attributes = {}) {
  try {
    eval(op, inputs, attributes);
  } catch (const Error& error) {
    return error.id();
  }
  return std::nullopt;
}

bool is_same(const Literal& literal, const Numbers& expected) {
  const Numbers found = numbers_of(literal);
  for (size_t i = 0; i < expected.size(); ++i) {
    const bool both_nan = std::isnan(found[i]) && std::isnan(expected[i]);
    if (!both_nan && found[i] != expected[i]) return false;
  }
  return found.size() == expected.size();
}

/// Within 1e-12, a few thousand roundings of f64: for results of transcendental functions.
bool is_near(const Literal& literal, const Numbers& expected) {
  const Numbers found = numbers_of(literal);
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!(std::fabs(found[i] - expected[i]) <= 1e-12 * std::max(1.0, std::fabs(expected[i])))) return false;
  }
  return found.size() == expected.size();
}

}  // namespace

TEST_CASE("Mod: the sign is the divisor's without fmod and the dividend's with it") {
  const Tensors operands = {row({-7, 7, -7, 7}, DType::i32), row({3, -3, -3, 3}, DType::i32)};
  CHECK(is_same(eval(OpKind::Mod, operands), {2, -2, -1, 1}));
  CHECK(is_same(eval(OpKind::Mod, operands, {{"fmod", int64_t{1}}}), {-1, 1, -1, 1}));
}

TEST_CASE("Div: integers are divided towards zero and the least one by -1 wraps") {
  CHECK(is_same(eval(OpKind::Div, {row({-7, 7, -128}, DType::i8), row({2, -2, -1}, DType::i8)}), {-3, -3, -128}));
  const double least = -9223372036854775808.0;
  CHECK(is_same(eval(OpKind::Div, {row({least}, DType::i64), row({-1}, DType::i64)}), {least}));
}

TEST_CASE("Div and Mod: an integer divided by zero is an error") {
  CHECK(error_of(OpKind::Div, {row({1}, DType::i32), row({0}, DType::i32)}) == ErrorId::M033);
  CHECK(error_of(OpKind::Mod, {row({1}, DType::u64), row({0}, DType::u64)}) == ErrorId::M033);
  CHECK(error_of(OpKind::Mod, {row({1}, DType::i8), row({0}, DType::i8)}, {{"fmod", int64_t{1}}}) == ErrorId::M033);
  CHECK(error_of(OpKind::Pow, {row({0}, DType::i64), row({-1}, DType::i64)}) == ErrorId::M033);
}

TEST_CASE("Pow: integers are exact modulo their width") {
  CHECK(is_same(eval(OpKind::Pow, {row({2, -2, 3, 0}, DType::i32), row({31, 31, 4, 0}, DType::i32)}),
                {-2147483648.0, -2147483648.0, 81, 1}));
  CHECK(
      is_same(eval(OpKind::Pow, {row({2, -1, -1, 1}, DType::i64), row({-1, -3, -2, -9}, DType::i64)}), {0, -1, 1, 1}));
}

TEST_CASE("Add: integers wrap") {
  CHECK(is_same(eval(OpKind::Add, {row({127, -128}, DType::i8), row({1, -1}, DType::i8)}), {-128, 127}));
  CHECK(is_same(eval(OpKind::Sub, {row({0}, DType::u16), row({1}, DType::u16)}), {65535}));
}

TEST_CASE("Max and Min: NaN wins") {
  CHECK(is_same(eval(OpKind::Max, {row({kNaN, 1, 2}), row({1, kNaN, 3})}), {kNaN, kNaN, 3}));
  CHECK(is_same(eval(OpKind::Min, {row({kNaN, 1, 2}), row({1, kNaN, 3})}), {kNaN, kNaN, 2}));
}

TEST_CASE("Clip: min above max gives max, and NaN stays") {
  CHECK(is_same(eval(OpKind::Clip, {row({-5, 0, 5, kNaN})}, {{"min", -1.0}, {"max", 2.0}}), {-1, 0, 2, kNaN}));
  CHECK(is_same(eval(OpKind::Clip, {row({-5, 0, 5})}, {{"min", 3.0}, {"max", 2.0}}), {2, 2, 2}));
  CHECK(is_same(eval(OpKind::Clip, {row({0, 5, 200}, DType::u8)}, {{"min", 3.0}}), {3, 5, 200}));
  CHECK(is_same(eval(OpKind::Clip, {row({-5, 9}, DType::i64)}), {-5, 9}));
}

TEST_CASE("Activations: values at chosen points") {
  CHECK(is_near(eval(OpKind::Gelu, {row({1, -1})}), {0.8413447460685429, -0.15865525393145707}));
  CHECK(is_near(eval(OpKind::Gelu, {row({1})}, {{"approximate", std::string("tanh")}}), {0.8411919906082768}));
  CHECK(is_near(eval(OpKind::Softplus, {row({0, 800, -800})}), {0.6931471805599453, 800, 0}));
  CHECK(is_near(eval(OpKind::Sigmoid, {row({0, 800, -800})}), {0.5, 1, 0}));
  CHECK(is_near(eval(OpKind::Mish, {row({1})}), {0.8650983882673103}));
  CHECK(is_near(eval(OpKind::HardSwish, {row({-4, -1, 1, 4})}), {0, -1.0 / 3, 2.0 / 3, 4}));
  CHECK(is_near(eval(OpKind::Shrink, {row({-2, 0.3, 2})}, {{"bias", 0.5}, {"lambd", 1.0}}), {-1.5, 0, 1.5}));
  CHECK(is_same(eval(OpKind::Round, {row({-2.5, -1.5, 0.5, 1.5, 2.5})}), {-2, -2, 0, 2, 2}));
  CHECK(is_same(eval(OpKind::Abs, {row({-128, -3}, DType::i8)}), {-128, 3}));
  CHECK(is_same(eval(OpKind::IsInf, {row({kInfinity, -kInfinity, 1})}, {{"detect_negative", int64_t{0}}}), {1, 0, 0}));
}

TEST_CASE("Cast: floats are rounded, truncated and clamped, integers keep their low bits") {
  CHECK(is_same(eval(OpKind::Cast, {row({-1.9, 1.9, 300, kNaN})}, {{"to", std::string("u8")}}), {0, 1, 255, 0}));
  CHECK(is_same(eval(OpKind::Cast, {row({-1, 300, -129}, DType::i32)}, {{"to", std::string("i8")}}), {-1, 44, 127}));
  CHECK(is_same(eval(OpKind::Cast, {row({kNaN, 1e30, -1e30})}, {{"to", std::string("i64")}}),
                {0, 9223372036854775807.0, -9223372036854775808.0}));
  // 2^24 + 1 lies between two f32 and goes to the even one; 65520 is half a step above the greatest f16.
  CHECK(is_same(eval(OpKind::Cast, {row({16777217}, DType::i32)}, {{"to", std::string("f32")}}), {16777216}));
  CHECK(is_same(eval(OpKind::Cast, {row({65519, 65520})}, {{"to", std::string("f16")}}), {65504, kInfinity}));
  CHECK(is_same(eval(OpKind::Cast, {row({0, -0.0, kNaN, 0.5})}, {{"to", std::string("bool")}}), {0, 0, 1, 1}));
}

TEST_CASE("Cast: an integer is rounded once") {
  // 2^60 + 2^36 + 1 is just above the middle of two f32; rounding to f64 first would lose the 1 and go to even.
  const std::vector<int64_t> value = {(int64_t{1} << 60) + (int64_t{1} << 36) + 1};
  const Literal result = eval(OpKind::Cast, {Literal::integers(value)}, {{"to", std::string("f32")}});
  CHECK(is_same(result, {0x1p60 + 0x1p37}));
}

TEST_CASE("Reductions: axes, sums and empty groups") {
  const Literal x = matrix(2, {1, -2, 3, 4, 5, -6});
  const Attributes rows{{"axes", std::vector<int64_t>{1}}, {"keepdims", int64_t{0}}};
  CHECK(is_same(eval(OpKind::ReduceSum, {x}, rows), {2, 3}));
  CHECK(is_same(eval(OpKind::ReduceMean, {x}, rows), {2.0 / 3, 1}));
  CHECK(is_same(eval(OpKind::ReduceProd, {x}, rows), {-6, -120}));
  CHECK(is_same(eval(OpKind::ReduceL1, {x}, rows), {6, 15}));
  CHECK(is_near(eval(OpKind::ReduceL2, {x}, rows), {std::sqrt(14.0), std::sqrt(77.0)}));
  CHECK(is_same(eval(OpKind::ReduceSumSquare, {x}, rows), {14, 77}));
  CHECK(is_same(eval(OpKind::ReduceMax, {x}), {5}));
  CHECK(is_same(eval(OpKind::ReduceMin, {x}, {{"axes", std::vector<int64_t>{0}}}), {1, -2, -6}));
  CHECK(is_near(eval(OpKind::ReduceLogSumExp, {row({1000, 1000})}), {1000 + std::log(2.0)}));
  const Literal none = literal_of(DType::f64, {1, 0}, {});
  CHECK(is_same(eval(OpKind::ReduceSum, {none}, rows), {0}));
  CHECK(is_same(eval(OpKind::ReduceProd, {none}, rows), {1}));
  CHECK(is_same(eval(OpKind::ReduceMean, {none}, rows), {kNaN}));
  CHECK(is_same(eval(OpKind::ReduceMax, {none}, rows), {-kInfinity}));
  CHECK(is_same(eval(OpKind::ReduceLogSumExp, {none}, rows), {-kInfinity}));
  CHECK(is_same(eval(OpKind::ReduceMax, {literal_of(DType::i8, {1, 0}, {})}, rows), {-128}));
  CHECK(is_same(eval(OpKind::ReduceMin, {literal_of(DType::u16, {1, 0}, {})}, rows), {65535}));
  CHECK(error_of(OpKind::ReduceMean, {literal_of(DType::i32, {1, 0}, {})}, rows) == ErrorId::M033);
}

TEST_CASE("Reductions: over no axis the elementwise part is still done") {
  const Attributes none{{"noop_with_empty_axes", int64_t{1}}};
  CHECK(is_same(eval(OpKind::ReduceSumSquare, {row({2, -3})}, none), {4, 9}));
  CHECK(is_same(eval(OpKind::ReduceSum, {row({2, -3})}, none), {2, -3}));
}

TEST_CASE("ArgMax: first or last of equals, and NaN counts as the greatest") {
  const Literal x = matrix(3, {1, 3, 3, 2, 2, 2, kNaN, 9, kNaN});
  CHECK(is_same(eval(OpKind::ArgMax, {x}, {{"axis", int64_t{1}}}), {1, 0, 0}));
  CHECK(is_same(eval(OpKind::ArgMax, {x}, {{"axis", int64_t{-1}}, {"select_last_index", int64_t{1}}}), {2, 2, 2}));
  CHECK(is_same(eval(OpKind::ArgMin, {x}, {{"axis", int64_t{1}}}), {0, 0, 0}));
}

TEST_CASE("CumSum: exclusive and reverse") {
  const auto cumsum = [](int64_t exclusive, int64_t reverse) {
    return eval(OpKind::CumSum, {row({1, 2, 3})},
                {{"axis", int64_t{0}}, {"exclusive", exclusive}, {"reverse", reverse}});
  };
  CHECK(is_same(cumsum(0, 0), {1, 3, 6}));
  CHECK(is_same(cumsum(1, 0), {0, 1, 3}));
  CHECK(is_same(cumsum(0, 1), {6, 5, 3}));
  CHECK(is_same(cumsum(1, 1), {5, 3, 0}));
}

TEST_CASE("UnaryGrad: a function that has none, or the wrong operand, is refused") {
  const Literal dy = row({1});
  CHECK(error_of(OpKind::UnaryGrad, {dy, dy}, {{"function", std::string("Floor")}}) == ErrorId::M031);
  CHECK(error_of(OpKind::UnaryGrad, {dy, dy}, {{"function", std::string("Add")}}) == ErrorId::M031);
  CHECK(error_of(OpKind::UnaryGrad, {dy, dy}, {{"function", std::string("Cos")}, {"alpha", 1.0}}) == ErrorId::M031);
  CHECK(error_of(OpKind::UnaryGrad, {dy, dy}, {{"function", std::string("Relu")}}) == ErrorId::M022);
  CHECK(error_of(OpKind::UnaryGrad, {dy, row({1, 2})}, {{"function", std::string("Cos")}}) == ErrorId::M032);
  CHECK(error_of(OpKind::UnaryGrad, {dy, row({1}, DType::f32)}, {{"function", std::string("Cos")}}) == ErrorId::M030);
}

TEST_CASE("inference refuses operands that do not fit, by id") {
  CHECK(error_of(OpKind::Add, {row({1}), row({1}, DType::f32)}) == ErrorId::M030);
  CHECK(error_of(OpKind::Add, {row({1, 2}), row({1, 2, 3})}) == ErrorId::M032);
  CHECK(error_of(OpKind::Add, {row({1}, DType::boolean), row({1}, DType::boolean)}) == ErrorId::M030);
  CHECK(error_of(OpKind::Exp, {row({1}, DType::i32)}) == ErrorId::M030);
  CHECK(error_of(OpKind::Not, {row({1}, DType::i32)}) == ErrorId::M030);
  CHECK(error_of(OpKind::And, {row({1}, DType::i32), row({1}, DType::i32)}) == ErrorId::M030);
  CHECK(error_of(OpKind::Mod, {row({1}), row({1})}) == ErrorId::M031);
  CHECK(error_of(OpKind::Cast, {row({1})}, {{"to", std::string("f99")}}) == ErrorId::M031);
  CHECK(error_of(OpKind::Gelu, {row({1})}, {{"approximate", std::string("cubic")}}) == ErrorId::M031);
  CHECK(error_of(OpKind::Celu, {row({1})}, {{"alpha", 0.0}}) == ErrorId::M031);
  CHECK(error_of(OpKind::PRelu, {row({1}), row({1, 2})}) == ErrorId::M032);
  CHECK(error_of(OpKind::Where, {row({1}), row({1}), row({1})}) == ErrorId::M030);
  CHECK(error_of(OpKind::ReduceSum, {row({1})}, {{"axes", std::vector<int64_t>{1}}}) == ErrorId::M031);
  CHECK(error_of(OpKind::ReduceSum, {row({1})}, {{"axes", std::vector<int64_t>{0, -1}}}) == ErrorId::M031);
  CHECK(error_of(OpKind::ArgMax, {literal_of(DType::f64, {0, 2}, {})}) == ErrorId::M032);
  CHECK(error_of(OpKind::CumSum, {row({1})}, {{"axis", int64_t{3}}}) == ErrorId::M031);
  CHECK(error_of(OpKind::Dropout, {row({1})}, {{"ratio", 1.0}, {"rng", int64_t{0}}}) == ErrorId::M031);
  CHECK(error_of(OpKind::GradAccumulate, {row({1}), row({1, 2})}) == ErrorId::M032);
  CHECK(error_of(OpKind::SgdUpdate, {row({1}), row({1}), scalar(0, DType::i64), scalar(1, DType::f32)},
                 {{"lr", 0.1}}) == ErrorId::M033);
  CHECK(error_of(OpKind::SgdUpdate, {row({1}), row({1}), scalar(1, DType::f32), scalar(1, DType::f32)},
                 {{"lr", 0.1}}) == ErrorId::M030);
  // Each fits, but together they broadcast to 2^48 bytes.
  Attributes none;
  const Types huge = {TensorType{DType::f32, {int64_t{1} << 23, 1}}, TensorType{DType::f32, {1, int64_t{1} << 23}}};
  CHECK_THROWS_AS(infer_types(OpKind::Add, "Add", none, huge, 1), Error);
}

TEST_CASE("Dropout: keeps a share of 1 - ratio, scaled, and names its numbers by seed, op, step and micro-batch") {
  constexpr int64_t kCount = 40000;
  const Literal ones = Literal::splat_number(DType::f64, {kCount}, 1);
  const auto dropped = [&](StepContext step, int64_t rng) {
    return numbers_of(*eval_all(OpKind::Dropout, {ones}, {{"ratio", 0.25}, {"rng", rng}}, 1, step)[0]);
  };
  const Numbers base = dropped({.step = 3, .microbatch = 1, .seed = 7}, 0);
  double kept = 0;
  for (const double y : base) {
    CHECK((y == 0 || y == 1 / 0.75));
    kept += y == 0 ? 0 : 1;
  }
  // The deviation of a binomial share is sqrt(0.25 * 0.75 / 40000) = 0.0022: 0.01 is more than four of them.
  CHECK(std::fabs(kept / kCount - 0.75) < 0.01);
  CHECK(base == dropped({.step = 3, .microbatch = 1, .seed = 7}, 0));
  CHECK(base != dropped({.step = 4, .microbatch = 1, .seed = 7}, 0));
  CHECK(base != dropped({.step = 3, .microbatch = 2, .seed = 7}, 0));
  CHECK(base != dropped({.step = 3, .microbatch = 1, .seed = 8}, 0));
  CHECK(base != dropped({.step = 3, .microbatch = 1, .seed = 7}, 1));
}

TEST_CASE("GradAccumulate: the first micro-batch stores, the others add") {
  const Tensors operands = {row({1, 2}), row({10, kNaN})};
  CHECK(is_same(*eval_all(OpKind::GradAccumulate, operands, {}, 1, {.microbatch = 0})[0], {1, 2}));
  CHECK(is_same(*eval_all(OpKind::GradAccumulate, operands, {}, 1, {.microbatch = 1})[0], {11, kNaN}));
}

TEST_CASE("GradAccumulate: a product is stored in the first micro-batch, and added in the others") {
  const auto of = [](const Shape& shape, std::vector<double> numbers) {
    return literal_of(DType::f32, shape, numbers);
  };
  const Attributes attributes = {{"transA", int64_t{1}}};
  // (1 2)^T (3 4) + (5 6)^T (7 8) = (38 44; 48 56); the columns of b add up to 10 and 12.
  const Tensors operands = {of({2, 2}, {1, 2, 5, 6}), of({2, 2}, {100, 200, 300, kNaN}), of({2, 2}, {3, 4, 7, 8})};
  const Tensors first = eval_all(OpKind::GradAccumulate, operands, attributes, 2, {.microbatch = 0});
  CHECK(is_same(*first[0], {38, 44, 48, 56}));
  CHECK(is_same(*first[1], {10, 12}));
  const Tensors second = eval_all(OpKind::GradAccumulate, operands, attributes, 2, {.microbatch = 1});
  CHECK(is_same(*second[0], {138, 244, 348, kNaN}));
  CHECK(is_same(*second[1], {10, 12}));
  CHECK(error_of(OpKind::GradAccumulate, {operands[0], of({2, 3}, {1, 2, 3, 4, 5, 6}), operands[2]}) == ErrorId::M032);
  CHECK(error_of(OpKind::GradAccumulate, {operands[0], row({1, 2}), operands[2]}) == ErrorId::M030);
}

TEST_CASE("SgdUpdate: two steps by hand") {
  // g = 0.5 * 0.4 + 0.1 * 2 = 0.4; p = 2 - 0.1 * 0.5 * 0.4 = 1.98.
  const Tensors operands = {row({2}), row({0.4}), scalar(1, DType::i64), scalar(0.5, DType::f32),
                            scalar(0.5, DType::f32)};
  CHECK(is_near(eval(OpKind::SgdUpdate, operands, {{"lr", 0.1}, {"weight_decay", 0.1}}), {1.98}));
}

TEST_CASE("MomentumUpdate: the first step takes the gradient whole, later ones damp it") {
  const auto update = [](double step, int64_t nesterov) {
    const Tensors operands = {row({1}), row({2}), row({10}), scalar(step, DType::i64), scalar(1, DType::f32)};
    return eval_all(OpKind::MomentumUpdate, operands,
                    {{"lr", 0.1}, {"momentum", 0.5}, {"dampening", nesterov ? 0.0 : 0.25}, {"nesterov", nesterov}}, 2);
  };
  CHECK(is_near(*update(1, 0)[1], {2}));
  CHECK(is_near(*update(1, 0)[0], {1 - 0.1 * 2}));
  CHECK(is_near(*update(2, 0)[1], {0.5 * 10 + 0.75 * 2}));
  CHECK(is_near(*update(2, 0)[0], {1 - 0.1 * 6.5}));
  CHECK(is_near(*update(2, 1)[1], {7}));
  CHECK(is_near(*update(2, 1)[0], {1 - 0.1 * (2 + 0.5 * 7)}));
}

TEST_CASE("AdamUpdate: the first step moves by lr, and decoupled decay shrinks the parameter first") {
  const auto update = [](Attributes attributes) {
    const Tensors operands = {row({3, 3}), row({0.5, -20}),       row({0, 0}),
                              row({0, 0}), scalar(1, DType::i64), scalar(1, DType::f32)};
    attributes.set("epsilon", 0.0);
    return eval_all(OpKind::AdamUpdate, operands, attributes, 3);
  };
  // With zero state m / (1 - beta1) = g and v / (1 - beta2) = g^2: the step is lr * g / |g|.
  const Tensors plain = update({{"lr", 0.01}});
  CHECK(is_near(*plain[0], {2.99, 3.01}));
  CHECK(is_near(*plain[1], {0.05, -2}));
  CHECK(is_near(*plain[2], {0.00025, 0.4}));
  CHECK(is_near(*update({{"lr", 0.01}, {"weight_decay", 0.1}, {"decoupled", int64_t{1}}})[0],
                {3 * 0.999 - 0.01, 3 * 0.999 + 0.01}));
}

TEST_CASE("Optimizers: f32 is computed in f32, f16 in f32 with one rounding at the end") {
  // In f32: 1 - 0.1f * 0.3f, each operation rounded.
  const Tensors f32 = {row({1}, DType::f32), row({0.3}, DType::f32), scalar(1, DType::i64), scalar(1, DType::f32)};
  const float expected = 1.0F - 0.1F * 0.3F;
  CHECK(is_same(eval(OpKind::SgdUpdate, f32, {{"lr", 0.1}}), {static_cast<double>(expected)}));
}

TEST_CASE("ReferenceEvaluator: gives what the kernel gives, also for no elements") {
  const ReferenceEvaluator evaluator;
  const auto sum = evaluator.evaluate(OpKind::Add, {}, {row({1, 2}), row({3})}, {{DType::f64, {2}}});
  CHECK(is_same(sum[0], {4, 5}));
  const Literal none = literal_of(DType::f32, {0, 3}, {});
  const auto empty = evaluator.evaluate(OpKind::Add, {}, {none, none}, {{DType::f32, {0, 3}}});
  CHECK(empty[0].shape() == Shape{0, 3});
}

}  // namespace mpc::test
