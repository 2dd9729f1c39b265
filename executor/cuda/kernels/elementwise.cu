// Elementwise operators with one operand, and their gradients: the functors of executor/functors in f32, over f32, f16
// and bf16 tensors. A result may take the bytes of its operand: every element is read before it is written.

#include <cmath>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/functors/unary.h"

namespace mpc::cuda {
namespace {

using Parameters = functors::Parameters<float>;

template <class F>
struct Values {
  FloatIn x;
  FloatOut y;
  Parameters parameters;
  MPC_DEVICE void operator()(int64_t i) const { y.set(i, F::value(x[i], parameters)); }
};

template <class F>
struct Gradients {
  FloatIn dy;
  FloatIn x;  // what a function does not need may be absent: it then reads dy in its place and ignores it
  FloatIn y;
  FloatOut dx;
  Parameters parameters;
  MPC_DEVICE void operator()(int64_t i) const { dx.set(i, F::gradient(dy[i], x[i], y[i], parameters)); }
};

template <class F>
KernelOrReason values(const executor::NodeSpec& node, Parameters parameters) {
  const int64_t count = node.outputs[0].shape.elements();
  const DType in = input_dtype(node, 0);
  const DType out = output_dtype(node, 0);
  return function_kernel("cuda:functor", [=](const Launch& launch) {
    for_each(launch.stream, count, Values<F>{{launch.inputs[0], in}, {launch.outputs[0], out}, parameters}, "unary");
  });
}

template <class F>
KernelOrReason gradients(const executor::NodeSpec& node, Parameters parameters) {
  const int64_t count = node.outputs[0].shape.elements();
  const DType dy = input_dtype(node, 0);
  const size_t x_at = has_input(node, 1) ? 1 : 0;
  const size_t y_at = has_input(node, 2) ? 2 : 0;
  const DType x = input_dtype(node, x_at);
  const DType y = input_dtype(node, y_at);
  const DType dx = output_dtype(node, 0);
  return function_kernel("cuda:functor", [=](const Launch& launch) {
    for_each(launch.stream, count,
             Gradients<F>{{launch.inputs[0], dy},
                          {launch.inputs[x_at], x},
                          {launch.inputs[y_at], y},
                          {launch.outputs[0], dx},
                          parameters},
             "unary gradient");
  });
}

struct Invert {
  IntegerIn x;
  IntegerOut y;
  MPC_DEVICE void operator()(int64_t i) const { y.set(i, x[i] == 0 ? 1 : 0); }
};

struct Classify {
  FloatIn x;
  IntegerOut y;
  bool is_nan_asked;
  bool takes_positive;
  bool takes_negative;
  MPC_DEVICE void operator()(int64_t i) const {
    const float value = x[i];
    const bool is_nan = value != value;
    const bool is_positive = takes_positive && value == INFINITY;
    const bool is_negative = takes_negative && value == -INFINITY;
    y.set(i, (is_nan_asked ? is_nan : is_positive || is_negative) ? 1 : 0);
  }
};

// Doubles are clamped to the integers' range where CPU kernels clamp; a float to bool is "not 0".
struct CastFloatToInteger {
  FloatIn x;
  IntegerOut y;
  double low;  // the range of the type; both are doubles that the type holds or rounds to its bounds
  double high;
  MPC_DEVICE void operator()(int64_t i) const {
    const double value = static_cast<double>(x[i]);
    if (y.dtype == DType::boolean) return y.set(i, value != 0 ? 1 : 0);
    if (value != value) return y.set(i, 0);
    if (value <= low) return y.set(i, static_cast<int64_t>(low));
    if (value >= high) return y.set(i, high >= 9.2e18 ? INT64_MAX : static_cast<int64_t>(high));
    y.set(i, static_cast<int64_t>(value));
  }
};

struct CastIntegerToFloat {
  IntegerIn x;
  FloatOut y;
  MPC_DEVICE void operator()(int64_t i) const {
    y.set(i, x.dtype == DType::u64 ? static_cast<float>(static_cast<uint64_t>(x[i])) : static_cast<float>(x[i]));
  }
};

struct CastFloat {
  FloatIn x;
  FloatOut y;
  MPC_DEVICE void operator()(int64_t i) const { y.set(i, x[i]); }
};

struct CastInteger {
  IntegerIn x;
  IntegerOut y;
  MPC_DEVICE void operator()(int64_t i) const { y.set(i, x[i]); }
};

bool is_whole(DType dtype) {
  return is_integer(dtype) || dtype == DType::boolean;
}

}  // namespace

KernelOrReason unary(const executor::NodeSpec& node, const MakeOptions&) {
  if (!all_small_floats(node)) return declined("unary: only f32, f16 and bf16");
  const functors::Parameters<double> p = functors::parameters_of(node.op, *node.attributes);
  const Parameters parameters{static_cast<float>(p.a), static_cast<float>(p.b)};
  switch (node.op) {
#define MPC_CASE(name) \
  case OpKind::name:   \
    return values<functors::name>(node, parameters);
    MPC_UNARY(MPC_CASE)
#undef MPC_CASE
    default:
      return declined("unary: no functor");
  }
}

KernelOrReason unary_gradient(const executor::NodeSpec& node, const MakeOptions&) {
  if (!all_small_floats(node)) return declined("unary gradient: only f32, f16 and bf16");
  const OpKind function = *find_op(node.attributes->text("function"));
  const functors::Parameters<double> p = functors::parameters_of(function, *node.attributes);
  const Parameters parameters{static_cast<float>(p.a), static_cast<float>(p.b)};
  switch (function) {
#define MPC_CASE(name) \
  case OpKind::name:   \
    return gradients<functors::name>(node, parameters);
    MPC_DIFFERENTIABLE_UNARY(MPC_CASE)
#undef MPC_CASE
    default:
      return declined("unary gradient: no functor");
  }
}

KernelOrReason predicate(const executor::NodeSpec& node, const MakeOptions&) {
  const int64_t count = node.outputs[0].shape.elements();
  const DType in = input_dtype(node, 0);
  if (node.op == OpKind::Not) {
    return function_kernel("cuda:functor", [=](const Launch& launch) {
      for_each(launch.stream, count, Invert{{launch.inputs[0], in}, {launch.outputs[0], DType::boolean}}, "Not");
    });
  }
  if (!is_small_float(in)) return declined("predicate: only f32, f16 and bf16");
  const bool is_nan_asked = node.op == OpKind::IsNaN;
  const bool positive = !is_nan_asked && node.attributes->flag("detect_positive");
  const bool negative = !is_nan_asked && node.attributes->flag("detect_negative");
  return function_kernel("cuda:functor", [=](const Launch& launch) {
    for_each(launch.stream, count,
             Classify{{launch.inputs[0], in}, {launch.outputs[0], DType::boolean}, is_nan_asked, positive, negative},
             "predicate");
  });
}

KernelOrReason cast(const executor::NodeSpec& node, const MakeOptions&) {
  const int64_t count = node.outputs[0].shape.elements();
  const DType in = input_dtype(node, 0);
  const DType out = output_dtype(node, 0);
  const auto make = [&](auto body) {
    return function_kernel("cuda:functor", [=](const Launch& launch) {
      auto bound = body;
      bound.x.data = launch.inputs[0];
      bound.y.data = launch.outputs[0];
      for_each(launch.stream, count, bound, "Cast");
    });
  };
  if (is_small_float(in) && is_small_float(out)) return make(CastFloat{{nullptr, in}, {nullptr, out}});
  if (is_whole(in) && is_small_float(out)) return make(CastIntegerToFloat{{nullptr, in}, {nullptr, out}});
  if (is_whole(in) && is_whole(out)) return make(CastInteger{{nullptr, in}, {nullptr, out}});
  if (is_small_float(in) && is_whole(out) && out != DType::u64) {
    const int bits = static_cast<int>(8 * dtype_bytes(out));
    const bool has_sign = is_signed_integer(out);
    const double high = std::ldexp(1.0, has_sign ? bits - 1 : bits) - (bits == 64 ? 0.0 : 1.0);
    const double low = has_sign ? -std::ldexp(1.0, bits - 1) : 0.0;
    return make(CastFloatToInteger{{nullptr, in}, {nullptr, out}, low, high});
  }
  return declined("Cast: f64, and floats to u64, are not done on the GPU");
}

}  // namespace mpc::cuda
