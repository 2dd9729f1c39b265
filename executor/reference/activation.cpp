// Elementwise kernels with one operand. The scalar maths is in executor/functors/unary.h, here with T = double.

#include <algorithm>
#include <cmath>
#include <limits>

#include "executor/functors/parameters_of.h"
#include "executor/functors/unary.h"
#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

template <class F>
void map_numbers(OpKind op, const KernelCall& call) {
  const auto parameters = functors::parameters_of(op, call.attributes);
  map_elements<double, double>(call, [&](double x) { return F::value(x, parameters); });
}

template <class F>
void map_gradient(const KernelCall& call, const functors::Parameters<double>& parameters) {
  std::array<double, kChunk> dy{};
  std::array<double, kChunk> x{};
  std::array<double, kChunk> y{};
  const int64_t elements = call.outputs[0].shape.elements();
  for (int64_t begin = 0; begin < elements; begin += kChunk) {
    const size_t count = static_cast<size_t>(std::min(kChunk, elements - begin));
    load<double>(call.inputs[0], begin, std::span(dy.data(), count));
    if (call.has_input(1)) load<double>(call.inputs[1], begin, std::span(x.data(), count));
    if (call.has_input(2)) load<double>(call.inputs[2], begin, std::span(y.data(), count));
    for (size_t i = 0; i < count; ++i) dy[i] = F::gradient(dy[i], x[i], y[i], parameters);
    store<double>(call.outputs[0], begin, std::span<const double>(dy.data(), count));
  }
}

// The bound of a Clip as an integer of the compute type: the next one inwards, within the range of the type.
template <class C>
C integer_bound(double bound, bool is_lower) {
  const double whole = is_lower ? std::ceil(bound) : std::floor(bound);
  // The limits are powers of two (or 0) as doubles, so that what lies strictly between them has a defined cast.
  if (!(whole > static_cast<double>(std::numeric_limits<C>::min()))) return std::numeric_limits<C>::min();
  if (whole >= static_cast<double>(std::numeric_limits<C>::max())) return std::numeric_limits<C>::max();
  return static_cast<C>(whole);
}

template <class C>
void clip_integers(const KernelCall& call) {
  const C low = integer_bound<C>(call.attributes.number("min"), true);
  const C high = integer_bound<C>(call.attributes.number("max"), false);
  map_elements<C, C>(call, [&](C x) { return std::min(high, std::max(low, x)); });
}

// The kernel of a function that is also defined for integers, where it is `integer_value`.
template <class F, class G>
void map_any(OpKind op, const KernelCall& call, G&& integer_value) {
  const DType dtype = call.inputs[0].dtype;
  if (is_float(dtype)) return map_numbers<F>(op, call);
  if (dtype == DType::u64) return map_elements<uint64_t, uint64_t>(call, integer_value);
  map_elements<int64_t, int64_t>(call, integer_value);
}

// 0 - x modulo 2^64.
template <class C>
C negated(C x) {
  return static_cast<C>(uint64_t{0} - static_cast<uint64_t>(x));
}

}  // namespace

#define MPC_FLOAT_KERNEL(name)                       \
  void name(const KernelCall& call) {                \
    map_numbers<functors::name>(OpKind::name, call); \
  }

MPC_FLOAT_KERNEL(Acos)
MPC_FLOAT_KERNEL(Acosh)
MPC_FLOAT_KERNEL(Asin)
MPC_FLOAT_KERNEL(Asinh)
MPC_FLOAT_KERNEL(Atan)
MPC_FLOAT_KERNEL(Atanh)
MPC_FLOAT_KERNEL(Ceil)
MPC_FLOAT_KERNEL(Celu)
MPC_FLOAT_KERNEL(Cos)
MPC_FLOAT_KERNEL(Cosh)
MPC_FLOAT_KERNEL(Elu)
MPC_FLOAT_KERNEL(Erf)
MPC_FLOAT_KERNEL(Exp)
MPC_FLOAT_KERNEL(Floor)
MPC_FLOAT_KERNEL(Gelu)
MPC_FLOAT_KERNEL(HardSigmoid)
MPC_FLOAT_KERNEL(HardSwish)
MPC_FLOAT_KERNEL(LeakyRelu)
MPC_FLOAT_KERNEL(Log)
MPC_FLOAT_KERNEL(Mish)
MPC_FLOAT_KERNEL(Reciprocal)
MPC_FLOAT_KERNEL(Round)
MPC_FLOAT_KERNEL(Selu)
MPC_FLOAT_KERNEL(Shrink)
MPC_FLOAT_KERNEL(Sigmoid)
MPC_FLOAT_KERNEL(Sin)
MPC_FLOAT_KERNEL(Sinh)
MPC_FLOAT_KERNEL(Softplus)
MPC_FLOAT_KERNEL(Softsign)
MPC_FLOAT_KERNEL(Sqrt)
MPC_FLOAT_KERNEL(Tan)
MPC_FLOAT_KERNEL(Tanh)
MPC_FLOAT_KERNEL(ThresholdedRelu)

void Abs(const KernelCall& call) {
  map_any<functors::Abs>(OpKind::Abs, call, [](auto x) { return x < decltype(x){0} ? negated(x) : x; });
}

void Neg(const KernelCall& call) {
  map_any<functors::Neg>(OpKind::Neg, call, [](auto x) { return negated(x); });
}

void Relu(const KernelCall& call) {
  map_any<functors::Relu>(OpKind::Relu, call, [](auto x) { return std::max(x, decltype(x){0}); });
}

void Sign(const KernelCall& call) {
  map_any<functors::Sign>(OpKind::Sign, call, [](auto x) {
    using C = decltype(x);
    return static_cast<C>(static_cast<int>(x > C{0}) - static_cast<int>(x < C{0}));
  });
}

void Clip(const KernelCall& call) {
  const DType dtype = call.inputs[0].dtype;
  if (is_float(dtype)) return map_numbers<functors::Clip>(OpKind::Clip, call);
  if (dtype == DType::u64) return clip_integers<uint64_t>(call);
  clip_integers<int64_t>(call);
}

void IsInf(const KernelCall& call) {
  const bool negative = call.attributes.flag("detect_negative");
  const bool positive = call.attributes.flag("detect_positive");
  map_elements<double, int64_t>(
      call, [&](double x) { return static_cast<int64_t>(std::isinf(x) && (x < 0 ? negative : positive)); });
}

void IsNaN(const KernelCall& call) {
  map_elements<double, int64_t>(call, [](double x) { return static_cast<int64_t>(std::isnan(x)); });
}

void Not(const KernelCall& call) {
  map_elements<int64_t, int64_t>(call, [](int64_t x) { return static_cast<int64_t>(x == 0); });
}

void UnaryGrad(const KernelCall& call) {
  const OpKind function = *find_op(call.attributes.text("function"));
  const auto parameters = functors::parameters_of(function, call.attributes);
  switch (function) {
#define MPC_CASE(name) \
  case OpKind::name:   \
    return map_gradient<functors::name>(call, parameters);
    MPC_DIFFERENTIABLE_UNARY(MPC_CASE)
#undef MPC_CASE
    default:
      fail(OpKind::UnaryGrad, "there is no gradient of " + std::string(op_name(function)));
  }
}

}  // namespace mpc::reference
