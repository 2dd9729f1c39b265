#pragma once

#include <cmath>

#include "compiler/base/half.h"
#include "executor/functors/parameters.h"

// Scalar maths of the elementwise operators with one operand, forward and backward, shared by every backend.
//
// A functor F has
//   T F::value(T x, Parameters<T> p)                     y = f(x)
//   T F::gradient(T dy, T x, T y, Parameters<T> p)       dy * f'(x)
// with T = float or double. `gradient` reads only one of x and y, the one that the definition of the operator states
// (compiler/ops/activation.cpp); the other may be anything. At a kink the gradient is that of the side named there.

namespace mpc::functors {

template <class T>
MPC_HD inline T sigmoid(T x) {
  // Both forms keep the argument of exp negative, so that nothing overflows.
  if (x >= 0) return T(1) / (T(1) + std::exp(-x));
  const T e = std::exp(x);
  return e / (T(1) + e);
}

template <class T>
MPC_HD inline T softplus(T x) {
  // log(1 + e^x) = max(x, 0) + log(1 + e^-|x|). The comparison is written so that NaN stays NaN.
  return (x < 0 ? T(0) : x) + std::log1p(std::exp(-std::fabs(x)));
}

/// |x|; the gradient at 0 is 0.
struct Abs {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::fabs(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return x > 0 ? dy : x < 0 ? -dy : T(0);
  }
};

struct Acos {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::acos(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return -dy / std::sqrt(T(1) - x * x);
  }
};

struct Acosh {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::acosh(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return dy / std::sqrt(x * x - T(1));
  }
};

struct Asin {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::asin(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return dy / std::sqrt(T(1) - x * x);
  }
};

struct Asinh {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::asinh(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return dy / std::sqrt(x * x + T(1));
  }
};

struct Atan {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::atan(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return dy / (T(1) + x * x);
  }
};

struct Atanh {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::atanh(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return dy / (T(1) - x * x);
  }
};

struct Ceil {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::ceil(x);
  }
};

/// a: alpha. The gradient at 0 is that of x > 0.
struct Celu {
  template <class T>
  MPC_HD static T value(T x, Parameters<T> p) {
    return x < 0 ? p.a * std::expm1(x / p.a) : x;
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T> p) {
    return x < 0 ? dy * std::exp(x / p.a) : dy;
  }
};

/// a: min, b: max. The gradient at a bound is that of the inside.
struct Clip {
  template <class T>
  MPC_HD static T value(T x, Parameters<T> p) {
    const T raised = x < p.a ? p.a : x;
    return raised > p.b ? p.b : raised;
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T> p) {
    return x >= p.a && x <= p.b ? dy : T(0);
  }
};

struct Cos {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::cos(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return -dy * std::sin(x);
  }
};

struct Cosh {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::cosh(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return dy * std::sinh(x);
  }
};

/// a: alpha. The gradient at 0 is that of x > 0.
struct Elu {
  template <class T>
  MPC_HD static T value(T x, Parameters<T> p) {
    return x < 0 ? p.a * std::expm1(x) : x;
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T> p) {
    return x < 0 ? dy * (p.a * std::exp(x)) : dy;
  }
};

struct Erf {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::erf(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    constexpr T kTwoOverSqrtPi = T(1.1283791670955126);
    return dy * (kTwoOverSqrtPi * std::exp(-x * x));
  }
};

struct Exp {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::exp(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T, T y, Parameters<T>) {
    return dy * y;
  }
};

struct Floor {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::floor(x);
  }
};

/// a: 0 for the exact form x * Phi(x), 1 for the approximation by tanh.
struct Gelu {
  static constexpr double kInverseSqrt2 = 0.70710678118654752;
  static constexpr double kInverseSqrt2Pi = 0.39894228040143268;
  static constexpr double kSqrt2OverPi = 0.79788456080286536;
  static constexpr double kCubic = 0.044715;

  template <class T>
  MPC_HD static T value(T x, Parameters<T> p) {
    if (p.a == T(0)) return T(0.5) * x * (T(1) + std::erf(x * T(kInverseSqrt2)));
    return T(0.5) * x * (T(1) + std::tanh(T(kSqrt2OverPi) * (x + T(kCubic) * x * x * x)));
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T> p) {
    if (p.a == T(0)) {
      const T phi = T(0.5) * (T(1) + std::erf(x * T(kInverseSqrt2)));
      return dy * (phi + x * (T(kInverseSqrt2Pi) * std::exp(T(-0.5) * x * x)));
    }
    const T t = std::tanh(T(kSqrt2OverPi) * (x + T(kCubic) * x * x * x));
    const T inner = T(kSqrt2OverPi) * (T(1) + T(3 * kCubic) * x * x);
    return dy * (T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * inner);
  }
};

/// a: alpha, b: beta. The gradient where y is exactly 0 or 1 is 0.
struct HardSigmoid {
  template <class T>
  MPC_HD static T value(T x, Parameters<T> p) {
    const T line = p.a * x + p.b;
    return line < 0 ? T(0) : line > 1 ? T(1) : line;
  }
  template <class T>
  MPC_HD static T gradient(T dy, T, T y, Parameters<T> p) {
    return y > 0 && y < 1 ? dy * p.a : T(0);
  }
};

/// x * max(0, min(1, x / 6 + 1 / 2)); the gradient at -3 is 0, at 3 it is 1.
struct HardSwish {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    const T line = x / T(6) + T(0.5);
    return x * (line < 0 ? T(0) : line > 1 ? T(1) : line);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return x <= -3 ? T(0) : x >= 3 ? dy : dy * (x / T(3) + T(0.5));
  }
};

/// a: alpha. The gradient at 0 is that of x > 0.
struct LeakyRelu {
  template <class T>
  MPC_HD static T value(T x, Parameters<T> p) {
    return x < 0 ? p.a * x : x;
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T> p) {
    return x < 0 ? dy * p.a : dy;
  }
};

struct Log {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::log(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return dy / x;
  }
};

struct Mish {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return x * std::tanh(softplus(x));
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    const T t = std::tanh(softplus(x));
    return dy * (t + x * (T(1) - t * t) * sigmoid(x));
  }
};

struct Neg {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return -x;
  }
};

struct Reciprocal {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return T(1) / x;
  }
  template <class T>
  MPC_HD static T gradient(T dy, T, T y, Parameters<T>) {
    return -dy * (y * y);
  }
};

/// The gradient at 0 is 0.
struct Relu {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return x < 0 ? T(0) : x;
  }
  template <class T>
  MPC_HD static T gradient(T dy, T, T y, Parameters<T>) {
    return y > 0 ? dy : T(0);
  }
};

/// Half to even (the rounding mode that every thread starts with; mpc never changes it).
struct Round {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::rint(x);
  }
};

/// a: alpha, b: gamma. The gradient at 0 is that of x < 0.
struct Selu {
  template <class T>
  MPC_HD static T value(T x, Parameters<T> p) {
    return x > 0 ? p.b * x : p.b * (p.a * std::expm1(x));
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T> p) {
    return x > 0 ? dy * p.b : dy * (p.b * p.a * std::exp(x));
  }
};

/// a: bias, b: lambd. The gradient at -lambd and lambd is 0.
struct Shrink {
  template <class T>
  MPC_HD static T value(T x, Parameters<T> p) {
    return x < -p.b ? x + p.a : x > p.b ? x - p.a : T(0);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T> p) {
    return x < -p.b || x > p.b ? dy : T(0);
  }
};

struct Sigmoid {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return sigmoid(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T, T y, Parameters<T>) {
    return dy * (y * (T(1) - y));
  }
};

/// NaN stays NaN.
struct Sign {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return x > 0 ? T(1) : x < 0 ? T(-1) : x == 0 ? T(0) : x;
  }
};

struct Sin {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::sin(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return dy * std::cos(x);
  }
};

struct Sinh {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::sinh(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    return dy * std::cosh(x);
  }
};

struct Softplus {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return softplus(x);
  }
  /// sigmoid(x) = 1 - e^-y.
  template <class T>
  MPC_HD static T gradient(T dy, T, T y, Parameters<T>) {
    return dy * -std::expm1(-y);
  }
};

struct Softsign {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return x / (T(1) + std::fabs(x));
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T>) {
    const T d = T(1) + std::fabs(x);
    return dy / (d * d);
  }
};

struct Sqrt {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::sqrt(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T, T y, Parameters<T>) {
    return T(0.5) * dy / y;
  }
};

struct Tan {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::tan(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T, T y, Parameters<T>) {
    return dy * (T(1) + y * y);
  }
};

struct Tanh {
  template <class T>
  MPC_HD static T value(T x, Parameters<T>) {
    return std::tanh(x);
  }
  template <class T>
  MPC_HD static T gradient(T dy, T, T y, Parameters<T>) {
    return dy * (T(1) - y * y);
  }
};

/// a: alpha. The gradient at alpha is 0.
struct ThresholdedRelu {
  template <class T>
  MPC_HD static T value(T x, Parameters<T> p) {
    return x <= p.a ? T(0) : x;
  }
  template <class T>
  MPC_HD static T gradient(T dy, T x, T, Parameters<T> p) {
    return x > p.a ? dy : T(0);
  }
};

// Every function with a gradient (the values that the attribute `function` of UnaryGrad may have).
// clang-format off
#define MPC_DIFFERENTIABLE_UNARY(X)                                                                                  \
  X(Abs) X(Acos) X(Acosh) X(Asin) X(Asinh) X(Atan) X(Atanh) X(Celu) X(Clip) X(Cos) X(Cosh) X(Elu) X(Erf) X(Exp)      \
  X(Gelu) X(HardSigmoid) X(HardSwish) X(LeakyRelu) X(Log) X(Mish) X(Reciprocal) X(Relu) X(Selu) X(Shrink) X(Sigmoid) \
  X(Sin) X(Sinh) X(Softplus) X(Softsign) X(Sqrt) X(Tan) X(Tanh) X(ThresholdedRelu)
// clang-format on
// Every function.
#define MPC_UNARY(X) MPC_DIFFERENTIABLE_UNARY(X) X(Ceil) X(Floor) X(Neg) X(Round) X(Sign)

}  // namespace mpc::functors
