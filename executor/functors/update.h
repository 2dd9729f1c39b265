#pragma once

#include <cmath>
#include <cstdint>

#include "compiler/base/attributes.h"
#include "compiler/base/half.h"

// The arithmetic of the optimizers on one element, shared by every backend. T is double for f64 parameters and float
// for all others; operations are done in the order written, without fused multiply-add, so that every backend that
// keeps to it gives the same bits. Formulas are those of PyTorch.

namespace mpc::functors {

template <class T>
struct SgdStep {
  T lr;
  T weight_decay;
  T grad_scale;

  MPC_HD T next(T p, T g) const {
    g = g * grad_scale;
    if (weight_decay != T(0)) g = g + weight_decay * p;
    return p - lr * g;
  }
};

template <class T>
struct MomentumStep {
  T lr;
  T weight_decay;
  T grad_scale;
  T momentum;
  T one_minus_dampening;
  bool is_nesterov;
  bool is_first;

  /// Updates p and m.
  MPC_HD void apply(T& p, T g, T& m) const {
    g = g * grad_scale;
    if (weight_decay != T(0)) g = g + weight_decay * p;
    m = is_first ? g : momentum * m + one_minus_dampening * g;
    p = p - lr * (is_nesterov ? g + momentum * m : m);
  }
};

template <class T>
struct AdamStep {
  T step_size;              // lr / (1 - beta1^t)
  T sqrt_bias_correction2;  // sqrt(1 - beta2^t)
  T one_minus_beta1;
  T beta2;
  T one_minus_beta2;
  T epsilon;
  T grad_scale;
  T weight_decay;  // added to the gradient; 0 when decoupled
  T keep;          // 1 - lr * weight_decay when decoupled, else 1

  /// Updates p, m and v.
  MPC_HD void apply(T& p, T g, T& m, T& v) const {
    g = g * grad_scale;
    if (weight_decay != T(0)) g = g + weight_decay * p;
    p = p * keep;
    m = m + (g - m) * one_minus_beta1;
    v = v * beta2 + one_minus_beta2 * (g * g);
    p = p - step_size * (m / (std::sqrt(v) / sqrt_bias_correction2 + epsilon));
  }
};

// The scalars of a step from canonical attributes, computed in double and rounded once.

template <class T>
SgdStep<T> sgd_step(const Attributes& attributes, double lr_scale, double grad_scale) {
  return {static_cast<T>(attributes.number("lr") * lr_scale), static_cast<T>(attributes.number("weight_decay")),
          static_cast<T>(grad_scale)};
}

/// @param step 1 for the first update.
template <class T>
MomentumStep<T> momentum_step(const Attributes& attributes, int64_t step, double lr_scale, double grad_scale) {
  return {static_cast<T>(attributes.number("lr") * lr_scale),
          static_cast<T>(attributes.number("weight_decay")),
          static_cast<T>(grad_scale),
          static_cast<T>(attributes.number("momentum")),
          static_cast<T>(1.0 - attributes.number("dampening")),
          attributes.flag("nesterov"),
          step == 1};
}

/// @param step 1 for the first update.
template <class T>
AdamStep<T> adam_step(const Attributes& attributes, int64_t step, double lr_scale, double grad_scale) {
  const double lr = attributes.number("lr") * lr_scale;
  const double beta1 = attributes.number("beta1");
  const double beta2 = attributes.number("beta2");
  const double weight_decay = attributes.number("weight_decay");
  const bool is_decoupled = attributes.flag("decoupled");
  const double t = static_cast<double>(step);
  return {static_cast<T>(lr / (1.0 - std::pow(beta1, t))),
          static_cast<T>(std::sqrt(1.0 - std::pow(beta2, t))),
          static_cast<T>(1.0 - beta1),
          static_cast<T>(beta2),
          static_cast<T>(1.0 - beta2),
          static_cast<T>(attributes.number("epsilon")),
          static_cast<T>(grad_scale),
          static_cast<T>(is_decoupled ? 0.0 : weight_decay),
          static_cast<T>(is_decoupled ? 1.0 - lr * weight_decay : 1.0)};
}

}  // namespace mpc::functors
