#include <limits>

#include "tests/ops/sample.h"

// Samples of the elementwise operators. Operands keep away from kinks and poles, since gradients are checked by finite
// differences: ranges are chosen on one side, or numbers are given.

namespace mpc::samples {
namespace {

Operand range(Shape shape, double low, double high, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .low = low, .high = high, .numbers = {}};
}
Operand of(Shape shape, DType dtype = DType::f32) {
  return range(shape, -1, 1, dtype);
}
Operand bools(Shape shape) {
  return range(shape, 0, 2, DType::boolean);
}
/// Given numbers, rank 1.
Operand row(std::vector<double> numbers, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = {static_cast<int64_t>(numbers.size())}, .numbers = std::move(numbers)};
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

class Builder {
 public:
  void add(OpKind op, std::string name, std::vector<std::optional<Operand>> inputs, Attributes attributes = {},
           std::vector<bool> outputs = {true}) {
    list_.push_back({.name = std::move(name),
                     .op = op,
                     .inputs = std::move(inputs),
                     .attributes = std::move(attributes),
                     .outputs = std::move(outputs)});
  }
  /// One that is made after the gradients are, and has none.
  void add_without_gradient(OpKind op, std::string name, std::vector<std::optional<Operand>> inputs,
                            Attributes attributes, std::vector<bool> outputs) {
    add(op, std::move(name), std::move(inputs), std::move(attributes), std::move(outputs));
    list_.back().check_gradient = false;
  }
  SampleList take() { return std::move(list_); }

 private:
  SampleList list_;
};

/// A function of one float operand: plain over [low, high), no elements, a scalar, and the other float dtypes.
void add_function(Builder& list, OpKind op, double low, double high, const Attributes& attributes = {}) {
  list.add(op, "plain", {range({2, 3, 7}, low, high)}, attributes);
  list.add(op, "more than a chunk", {range({5, 257}, low, high, DType::f64)}, attributes);
  list.add(op, "scalar", {range({}, low, high)}, attributes);
  list.add(op, "no elements", {range({3, 0, 2}, low, high)}, attributes);
  list.add(op, "f16", {range({4, 5}, low, high, DType::f16)}, attributes);
  list.add(op, "bf16", {range({4, 5}, low, high, DType::bf16)}, attributes);
}

/// Infinities, NaN and zeros through a function. Finite differences have no meaning there.
void add_special(Builder& list, OpKind op, const Attributes& attributes = {}) {
  list.add(op, "special values", {row({kInfinity, -kInfinity, kNaN, 0.0, -0.0, 1e30, -1e30, 1e-30}, DType::f64)},
           attributes);
}

void add_functions(Builder& list) {
  for (const OpKind op :
       {OpKind::Asinh, OpKind::Atan, OpKind::Cos, OpKind::Cosh, OpKind::Erf, OpKind::Exp, OpKind::Gelu, OpKind::Mish,
        OpKind::Sigmoid, OpKind::Sin, OpKind::Sinh, OpKind::Softplus, OpKind::Tanh}) {
    add_function(list, op, -3, 3);
    add_special(list, op);
  }
  for (const OpKind op : {OpKind::Acos, OpKind::Asin, OpKind::Atanh}) add_function(list, op, -0.9, 0.9);
  for (const OpKind op : {OpKind::Acosh, OpKind::Log, OpKind::Reciprocal, OpKind::Sqrt}) {
    add_function(list, op, 1.2, 4);
    add_special(list, op);
  }
  add_function(list, OpKind::Tan, -1.2, 1.2);
  for (const OpKind op : {OpKind::Ceil, OpKind::Floor, OpKind::Round, OpKind::Sign}) {
    add_function(list, op, -4, 4);
    add_special(list, op);
  }
  list.add(OpKind::Round, "halves", {row({-2.5, -1.5, -0.5, 0.5, 1.5, 2.5})});
  add_function(list, OpKind::Neg, -4, 4);
}

/// Functions with a kink: one sample on each side of it beside the general ones.
void add_kinked(Builder& list, OpKind op, double kink, const Attributes& attributes = {}) {
  add_function(list, op, kink + 0.1, kink + 2, attributes);
  list.add(op, "below the kink", {range({3, 5}, kink - 2, kink - 0.1)}, attributes);
  add_special(list, op, attributes);
}

void add_piecewise_functions(Builder& list) {
  add_kinked(list, OpKind::Abs, 0);
  add_kinked(list, OpKind::Celu, 0);
  add_kinked(list, OpKind::Elu, 0);
  add_kinked(list, OpKind::HardSigmoid, -2.5);
  add_kinked(list, OpKind::HardSwish, 0);
  add_kinked(list, OpKind::LeakyRelu, 0);
  add_kinked(list, OpKind::Relu, 0);
  add_kinked(list, OpKind::Selu, 0);
  add_kinked(list, OpKind::Shrink, 0.5);
  add_kinked(list, OpKind::Softsign, 0);
  add_kinked(list, OpKind::ThresholdedRelu, 1);
  add_kinked(list, OpKind::Clip, 0, {{"min", 0.0}});

  list.add(OpKind::Celu, "alpha", {range({2, 9}, -2, -0.1)}, {{"alpha", 0.5}});
  list.add(OpKind::Celu, "negative alpha", {range({2, 9}, -2, -0.1)}, {{"alpha", -1.5}});
  list.add(OpKind::Elu, "alpha", {range({2, 9}, -2, -0.1)}, {{"alpha", 0.5}});
  list.add(OpKind::Elu, "negative alpha", {range({2, 9}, -2, -0.1)}, {{"alpha", -1.5}});
  list.add(OpKind::Gelu, "tanh", {range({2, 9}, -3, 3)}, {{"approximate", std::string("tanh")}});
  list.add(OpKind::HardSigmoid, "slope and saturation", {row({-3, -1.1, -0.2, 0.3, 0.9, 4})},
           {{"alpha", 0.5}, {"beta", 0.6}});
  list.add(OpKind::HardSwish, "all pieces", {row({-5, -2.5, -1, 1, 2.5, 5})});
  list.add(OpKind::LeakyRelu, "alpha", {row({-2, -0.5, 0.5, 2})}, {{"alpha", 0.3}});
  list.add(OpKind::LeakyRelu, "negative alpha", {row({-2, -0.5, 0.5, 2})}, {{"alpha", -0.3}});
  list.add(OpKind::Selu, "alpha and gamma", {row({-2, -0.5, 0.5, 2})}, {{"alpha", 1.5}, {"gamma", 0.7}});
  list.add(OpKind::Shrink, "bias", {row({-2, -1.2, -0.5, 0.5, 1.2, 2})}, {{"lambd", 1.0}, {"bias", 0.25}});
  list.add(OpKind::ThresholdedRelu, "alpha", {row({-2, -0.5, 0.5, 2})}, {{"alpha", 0.1}});
  list.add(OpKind::Clip, "both bounds", {row({-3, -1.5, -0.5, 0.5, 1.5, 3})}, {{"min", -1.0}, {"max", 1.0}});
  list.add(OpKind::Clip, "min above max", {row({-3, -0.5, 0.5, 3})}, {{"min", 2.0}, {"max", 1.0}});
  list.add(OpKind::Clip, "no bounds", {of({3, 3})});
}

void add_integer_functions(Builder& list) {
  for (const DType dtype : {DType::i8, DType::i16, DType::i32, DType::i64}) {
    const std::string name(dtype_name(dtype));
    for (const OpKind op : {OpKind::Abs, OpKind::Neg, OpKind::Relu, OpKind::Sign})
      list.add(op, name, {range({3, 5}, -9, 9, dtype)});
    list.add(OpKind::Clip, name, {range({3, 5}, -9, 9, dtype)}, {{"min", -3.0}, {"max", 4.0}});
  }
  for (const DType dtype : {DType::u8, DType::u16, DType::u32, DType::u64}) {
    const std::string name(dtype_name(dtype));
    for (const OpKind op : {OpKind::Abs, OpKind::Sign}) list.add(op, name, {range({3, 5}, 0, 9, dtype)});
    list.add(OpKind::Clip, name, {range({3, 5}, 0, 9, dtype)}, {{"min", 2.0}, {"max", 4.0}});
  }
  list.add(OpKind::Abs, "least integers", {row({-128, -127, 127, 0}, DType::i8)});
  list.add(OpKind::Clip, "no bounds u64", {range({7}, 0, 1e19, DType::u64)});
  list.add(OpKind::Erf, "i32", {range({3, 5}, -2, 3, DType::i32)});
  list.add(OpKind::Shrink, "i32", {range({3, 5}, -5, 5, DType::i32)}, {{"lambd", 1.5}, {"bias", 1.0}});
}

void add_predicates(Builder& list) {
  const std::vector<double> specials = {kInfinity, -kInfinity, kNaN, 0.0, -1.0, 1e30};
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    list.add(OpKind::IsInf, std::string(dtype_name(dtype)), {row(specials, dtype)});
    list.add(OpKind::IsNaN, std::string(dtype_name(dtype)), {row(specials, dtype)});
  }
  list.add(OpKind::IsInf, "positive only", {row(specials)}, {{"detect_negative", int64_t{0}}});
  list.add(OpKind::IsInf, "negative only", {row(specials)}, {{"detect_positive", int64_t{0}}});
  list.add(OpKind::IsNaN, "no elements", {of({0})});
  list.add(OpKind::Not, "plain", {bools({3, 5})});
  list.add(OpKind::Not, "no elements", {bools({0, 5})});
}

void add_unary_grad(Builder& list) {
  const auto grad = [](const char* function) { return Attributes{{"function", std::string(function)}}; };
  list.add(OpKind::UnaryGrad, "Relu reads y", {of({3, 5}), std::nullopt, of({3, 5})}, grad("Relu"));
  list.add(OpKind::UnaryGrad, "Sigmoid reads y", {of({3, 5}), std::nullopt, range({3, 5}, 0.1, 0.9)}, grad("Sigmoid"));
  list.add(OpKind::UnaryGrad, "Tanh f64", {of({3, 5}, DType::f64), std::nullopt, of({3, 5}, DType::f64)}, grad("Tanh"));
  list.add(OpKind::UnaryGrad, "Gelu reads x", {of({3, 5}), of({3, 5})}, grad("Gelu"));
  list.add(OpKind::UnaryGrad, "Gelu tanh f16", {of({3, 5}, DType::f16), of({3, 5}, DType::f16)},
           {{"function", std::string("Gelu")}, {"approximate", std::string("tanh")}});
  list.add(OpKind::UnaryGrad, "LeakyRelu alpha", {of({3, 5}), of({3, 5})},
           {{"function", std::string("LeakyRelu")}, {"alpha", 0.3}});
  list.add(OpKind::UnaryGrad, "Clip bounds", {of({3, 5}), range({3, 5}, -3, 3)},
           {{"function", std::string("Clip")}, {"min", -1.0}, {"max", 1.0}});
  list.add(OpKind::UnaryGrad, "no elements bf16", {of({0}, DType::bf16), of({0}, DType::bf16)}, grad("Log"));
}

void add_casts(Builder& list) {
  const auto to = [](std::string_view dtype) { return Attributes{{"to", std::string(dtype)}}; };
  constexpr DType kAll[] = {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i8,  DType::i16,    DType::i32,
                            DType::i64, DType::u8,  DType::u16, DType::u32,  DType::u64, DType::boolean};
  for (const DType from : kAll) {
    for (const DType dtype : kAll) {
      // Finite differences need a result in f64; with f32 operands taken as f64, only this pair has one.
      if (from == DType::f32 && dtype != DType::f64) continue;
      const std::string name = std::string(dtype_name(from)) + " to " + std::string(dtype_name(dtype));
      list.add(OpKind::Cast, name, {range({3, 5}, 0, from == DType::boolean ? 2 : 100, from)}, to(dtype_name(dtype)));
    }
  }
  list.add(OpKind::Cast, "negative floats to i8", {row({-1.9, -0.5, 1.9, 127.2, -128}, DType::f64)}, to("i8"));
  list.add(OpKind::Cast, "specials to f16", {row({kInfinity, kNaN, 65504, 65520, 1e-8, -0.0}, DType::f64)}, to("f16"));
  list.add(OpKind::Cast, "specials to i32", {row({kInfinity, -kInfinity, kNaN, 1e20}, DType::f64)}, to("i32"));
  list.add(OpKind::Cast, "specials to bool", {row({kInfinity, kNaN, 0.0, -0.0, 0.1}, DType::f64)}, to("bool"));
  list.add(OpKind::Cast, "no elements", {of({0, 2}, DType::f64)}, to("i64"));
  const std::vector<bool> all = {true, true, true, true};
  list.add(OpKind::Cast, "several tensors", {of({3, 2}), of({0, 2}), of({5000}), of({})}, to("f64"), all);
  for (const DType dtype : {DType::f16, DType::i32}) {
    list.add(OpKind::Cast, "several tensors of " + std::string(dtype_name(dtype)),
             {of({3, 2}, dtype), of({0, 2}, dtype), of({5000}, dtype), of({}, dtype)}, to("bf16"), all);
  }
  const auto joined = [](const std::string& dtype, std::vector<int64_t> counts) {
    return Attributes{{"joined", std::move(counts)}, {"to", dtype}};
  };
  list.add_without_gradient(OpKind::Cast, "side by side", {of({3, 2}), of({3, 5}), of({3, 1})}, joined("bf16", {3}),
                            {true});
  list.add_without_gradient(OpKind::Cast, "some side by side",
                            {of({5000}), of({70, 90}), of({70, 110}), of({2}), of({0}), of({3})},
                            joined("f16", {1, 2, 3}), {true, true, true});
  list.add_without_gradient(OpKind::Cast, "no rows side by side", {of({0, 2}), of({0, 3})}, joined("bf16", {2}),
                            {true});
}

/// Shapes and dtypes that every operator with two operands takes.
void add_binary(Builder& list, OpKind op, Operand a, Operand b, const Attributes& attributes = {}) {
  const auto with = [](Operand operand, Shape shape, DType dtype) {
    operand.shape = shape;
    operand.dtype = dtype;
    return operand;
  };
  const auto add = [&](std::string name, Shape sa, Shape sb, DType da, DType db) {
    list.add(op, std::move(name), {with(a, sa, da), with(b, sb, db)}, attributes);
  };
  const DType da = a.dtype;
  const DType db = b.dtype;
  add("plain", {2, 3, 5}, {2, 3, 5}, da, db);
  add("row", {2, 3, 5}, {5}, da, db);
  add("column and row", {2, 1, 5}, {3, 1}, da, db);
  add("first is broadcast", {1, 5}, {4, 3, 5}, da, db);
  add("scalar", {2, 3}, {}, da, db);
  add("scalars", {}, {}, da, db);
  add("broadcast to no elements", {3, 0}, {1}, da, db);
  add("more than a chunk", {3, 1, 301}, {2, 301}, da == DType::f32 ? DType::f64 : da,
      db == DType::f32 ? DType::f64 : db);
  if (da != DType::f32) return;
  for (const DType dtype : {DType::f16, DType::bf16}) add(std::string(dtype_name(dtype)), {3, 5}, {3, 1}, dtype, dtype);
}

void add_integers(Builder& list, OpKind op, const Attributes& attributes = {}) {
  for (const DType dtype :
       {DType::i8, DType::i16, DType::i32, DType::i64, DType::u8, DType::u16, DType::u32, DType::u64}) {
    const double low = is_signed_integer(dtype) ? -100 : 1;
    // The second operand is a divisor in some: it keeps to one sign.
    list.add(op, std::string(dtype_name(dtype)), {range({4, 5}, low, 100, dtype), range({5}, 1, 9, dtype)}, attributes);
    if (is_signed_integer(dtype)) {
      list.add(op, std::string(dtype_name(dtype)) + " negative",
               {range({4, 5}, low, 100, dtype), range({4, 1}, -9, 0, dtype)}, attributes);
    }
  }
}

void add_arithmetic(Builder& list) {
  for (const OpKind op : {OpKind::Add, OpKind::Sub, OpKind::Mul, OpKind::Div, OpKind::Max, OpKind::Min}) {
    add_binary(list, op, range({}, 0.5, 1.4),
               op == OpKind::Max || op == OpKind::Min ? range({}, 1.5, 3) : range({}, 0.5, 2));
    add_integers(list, op);
  }
  for (const OpKind op : {OpKind::Max, OpKind::Min}) {
    list.add(op, "either", {row({-1, 2, -3, 4}), row({1, -2, 3, -4})});
    list.add(op, "NaN", {row({kNaN, 1, kNaN}, DType::f64), row({1, kNaN, kNaN}, DType::f64)});
  }
  for (const OpKind op : {OpKind::Add, OpKind::Sub, OpKind::Mul}) {
    list.add(op, "wraps", {row({127, -128, 100}, DType::i8), row({127, 127, -100}, DType::i8)});
  }
  list.add(OpKind::Div, "least by -1", {row({-128, 127}, DType::i8), row({-1, -1}, DType::i8)});
  list.add(OpKind::Div, "float by zero", {row({1, -1, 0}, DType::f64), row({0, 0, 0}, DType::f64)});

  add_integers(list, OpKind::Mod);
  add_binary(list, OpKind::Mod, range({}, 7.1, 7.9), range({}, 2.05, 2.3), {{"fmod", int64_t{1}}});
  list.add(OpKind::Mod, "fmod of integers", {row({-7, 7, -7, 7}, DType::i32), row({3, 3, -3, -3}, DType::i32)},
           {{"fmod", int64_t{1}}});
  list.add(OpKind::Mod, "signs of fmod", {row({-7.5, 7.5, -7.5, 7.5}), row({3, 3, -3, -3})}, {{"fmod", int64_t{1}}});

  add_binary(list, OpKind::Pow, range({}, 0.5, 2), range({}, -2, 3));
  list.add(OpKind::Pow, "square of both signs",
           {row({-2, -0.5, 0.5, 2}), {{.dtype = DType::i64, .shape = {}, .numbers = {2}}}});
  list.add(OpKind::Pow, "power 0 at 0", {row({-2, 0, 3}), row({0, 0, 0}, DType::i64)});
  list.add(OpKind::Pow, "integer exponent", {range({3, 4}, 0.5, 2), row({-1, 0, 2, 3}, DType::i64)});
  list.add(OpKind::Pow, "f64 exponent", {range({3, 4}, 0.5, 2, DType::f16), range({4}, -1, 2, DType::f64)});
  list.add(OpKind::Pow, "integers", {row({-2, -1, 0, 1, 2, 3}, DType::i64), row({3, 5, 0, 9, 62, 4}, DType::i32)});
  list.add(OpKind::Pow, "negative integer exponents",
           {row({-2, -1, -1, 1, 2}, DType::i32), row({-3, -3, -2, -1, -1}, DType::i32)});
  list.add(OpKind::Pow, "integer to a float", {row({4, 9, 2}, DType::i32), row({0.5, 0.5, 0.5}, DType::f64)});

  list.add(OpKind::PRelu, "plain", {row({-2, -0.5, 0.5, 2}), row({0.1, 0.2, 0.3, -0.4})});
  list.add(OpKind::PRelu, "slope per channel", {range({2, 3, 2, 2}, -2, -0.1), range({3, 1, 1}, 0.1, 0.4)});
  list.add(OpKind::PRelu, "one slope", {range({2, 3}, 0.1, 2), of({1})});
  list.add(OpKind::PRelu, "f16", {of({2, 3}, DType::f16), of({1}, DType::f16)});
  list.add(OpKind::PRelu, "i32", {row({-4, 4, -1}, DType::i32), row({3, 3, -2}, DType::i32)});
  list.add(OpKind::PRelu, "no elements", {of({2, 0}), of({1})});
}

void add_comparisons(Builder& list) {
  for (const OpKind op : {OpKind::Equal, OpKind::Greater, OpKind::GreaterOrEqual, OpKind::Less, OpKind::LessOrEqual}) {
    add_binary(list, op, of({}), of({}));
    list.add(op, "ties", {row({1, 2, 3, 4}), row({1, 3, 2, 4})});
    list.add(op, "NaN and infinity", {row({kNaN, kNaN, kInfinity}, DType::f64), row({kNaN, 1, kInfinity}, DType::f64)});
    for (const DType dtype :
         {DType::i8, DType::i16, DType::i32, DType::i64, DType::u8, DType::u16, DType::u32, DType::u64}) {
      list.add(op, std::string(dtype_name(dtype)), {range({4, 5}, 0, 4, dtype), range({5}, 0, 4, dtype)});
    }
    list.add(op, "large u64", {row({1e19, 1, 1e19}, DType::u64), row({1, 1e19, 1e19}, DType::u64)});
  }
  list.add(OpKind::Equal, "bool", {bools({3, 5}), bools({5})});
  for (const OpKind op : {OpKind::And, OpKind::Or, OpKind::Xor}) add_binary(list, op, bools({}), bools({}));
}

void add_where(Builder& list) {
  list.add(OpKind::Where, "plain", {bools({2, 3, 5}), of({2, 3, 5}), of({2, 3, 5})});
  list.add(OpKind::Where, "all are broadcast", {bools({2, 1, 1}), of({3, 1}), of({5})});
  list.add(OpKind::Where, "scalar branch", {bools({4, 5}), of({4, 5}), of({})});
  list.add(OpKind::Where, "no elements", {bools({0, 1}), of({1, 3}), of({})});
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16, DType::i8, DType::i16, DType::i32, DType::i64,
                            DType::u8, DType::u16, DType::u32, DType::u64, DType::boolean}) {
    list.add(OpKind::Where, std::string(dtype_name(dtype)),
             {bools({4, 5}), range({5}, 0, 2, dtype), range({4, 1}, 0, 2, dtype)});
  }
}

Attributes program(std::vector<std::string> steps) {
  return {{"steps", std::move(steps)}};
}

void add_programs(Builder& list) {
  const auto add = [&](std::string name, std::vector<std::optional<Operand>> inputs, std::vector<std::string> steps) {
    list.add(OpKind::Elementwise, std::move(name), std::move(inputs), program(std::move(steps)));
  };
  // More than a tile of every backend, with a last one that is not whole.
  add("sum of three", {of({3, 1500}), of({3, 1500}), of({3, 1500})}, {"f32 Add 0 1", "f32 Add 3 2"});
  add("row, column and scalar", {of({2, 70, 50}), of({50}), of({70, 1}), of({})},
      {"f32 Mul 0 1", "f32 Sub 4 2", "f32 Max 3 5", "f32 Min 6 5"});
  add("result larger than every input", {of({40, 1}), of({1, 60})}, {"f32 Add 0 1", "f32 Mul 2 0", "f32 Sub 1 3"});
  add("one step", {range({5, 7}, 0.1, 2)}, {"f32 Log 0"});
  add("result read twice", {range({64, 33}, -3, 3)}, {"f32 Sigmoid 0", "f32 Mul 0 1", "f32 Add 1 2"});
  add("rounds to bf16 between steps", {of({9, 300}), of({300}, DType::bf16)},
      {"bf16 Cast 0 to=bf16", "bf16 Mul 2 1", "bf16 Add 3 2", "f32 Cast 4 to=f32", "f32 Exp 5"});
  add("rounds to f16 between steps", {of({9, 30}, DType::f16), of({9, 30}, DType::f16)},
      {"f16 Mul 0 1", "f16 Mul 2 2", "f16 Sub 3 0"});
  add("masks", {of({4, 9, 31}), of({31}), of({})},
      {"bool Less 0 1", "bool GreaterOrEqual 0 2", "bool And 3 4", "bool Not 5", "bool Or 6 3", "bool Xor 7 4",
       "f32 Where 8 0 2"});
  add("bool result", {of({4, 70}), bools({70})}, {"bool Greater 0 0", "bool Equal 2 1"});
  add("bool as number", {bools({4, 70}), of({4, 70})}, {"f32 Cast 0 to=f32", "f32 PRelu 1 2"});
  add("attributes", {range({6, 50}, -3, 3)},
      {"f32 Clip 0 max=1.5 min=-2.0", "f32 LeakyRelu 1 alpha=0.25", "f32 Gelu 2 approximate=tanh",
       "f32 HardSigmoid 3 alpha=0.25 beta=0.5"});
  add("gradients", {of({6, 50}), range({6, 50}, -3, 3), range({6, 50}, 0.1, 0.9)},
      {"f32 UnaryGrad 0 1 function=Gelu", "f32 UnaryGrad 3 - 2 function=Sigmoid",
       "f32 UnaryGrad 4 1 alpha=0.5 function=Celu"});
  add("as many as may be", {of({3, 9}), of({9}), of({3, 9}), of({9}), of({3, 9}), of({9}), of({3, 9}), of({})},
      {"f32 Add 0 1", "f32 Mul 8 2", "f32 Sub 9 3", "f32 Mul 10 4", "f32 Add 11 5", "f32 Mul 12 6", "f32 Add 13 7",
       "f32 Tanh 14", "f32 Neg 15", "f32 Abs 16", "f32 Add 17 8", "f32 Sub 18 9", "f32 Relu 19", "f32 Erf 20",
       "f32 Pow 21 7", "f32 Add 22 12"});
  add("no elements", {of({0, 4}), of({4})}, {"f32 Add 0 1", "f32 Neg 2"});
  add("scalars", {of({}), of({1})}, {"f32 Add 0 1", "f32 Neg 2"});
  // Every function, in a program of its own with one step more.
  for (const OpKind op :
       {OpKind::Abs,      OpKind::Asinh,    OpKind::Atan,        OpKind::Ceil,      OpKind::Celu,
        OpKind::Cos,      OpKind::Cosh,     OpKind::Elu,         OpKind::Erf,       OpKind::Exp,
        OpKind::Floor,    OpKind::Gelu,     OpKind::HardSigmoid, OpKind::HardSwish, OpKind::LeakyRelu,
        OpKind::Mish,     OpKind::Neg,      OpKind::Relu,        OpKind::Round,     OpKind::Selu,
        OpKind::Shrink,   OpKind::Sigmoid,  OpKind::Sign,        OpKind::Sin,       OpKind::Sinh,
        OpKind::Softplus, OpKind::Softsign, OpKind::Tan,         OpKind::Tanh,      OpKind::ThresholdedRelu}) {
    add(std::string(op_name(op)), {range({3, 17}, -1.4, 1.4), of({17})},
        {"f32 " + std::string(op_name(op)) + " 0", "f32 Add 2 1"});
  }
  for (const OpKind op : {OpKind::Acos, OpKind::Asin, OpKind::Atanh, OpKind::Log, OpKind::Reciprocal, OpKind::Sqrt}) {
    add(std::string(op_name(op)), {range({3, 17}, 0.1, 0.9), of({17})},
        {"f32 " + std::string(op_name(op)) + " 0", "f32 Div 2 0", "f32 Mul 3 1"});
  }
  add("Acosh", {range({3, 17}, 1.5, 3)}, {"f32 Acosh 0", "bool LessOrEqual 1 0", "f32 Where 2 1 0"});
}

}  // namespace

SampleList elementwise_samples() {
  Builder list;
  add_functions(list);
  add_piecewise_functions(list);
  add_integer_functions(list);
  add_predicates(list);
  add_unary_grad(list);
  add_casts(list);
  add_arithmetic(list);
  add_comparisons(list);
  add_where(list);
  add_programs(list);
  return list.take();
}

}  // namespace mpc::samples
