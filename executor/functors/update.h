#pragma once

#include <cmath>
#include <cstdint>

#include "compiler/base/attributes.h"
#include "compiler/base/half.h"

// The arithmetic of the optimizers on one element, shared by every backend. T is double for f64 parameters and float
// for all others; operations are done in the order written, without fused multiply-add, so that every backend that
// keeps to it gives the same bits. Formulas are those of PyTorch. A grad_scale that is no number says that this step's
// gradients are none either: nothing changes (loss scaling).

namespace mpc::functors {

template <class T>
struct SgdStep {
  T lr;
  T weight_decay;
  T grad_scale;

  MPC_HD T next(T p, T g) const {
    if (grad_scale != grad_scale) return p;
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
    if (grad_scale != grad_scale) return;
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
    if (grad_scale != grad_scale) return;
    g = g * grad_scale;
    if (weight_decay != T(0)) g = g + weight_decay * p;
    p = p * keep;
    m = m + (g - m) * one_minus_beta1;
    v = v * beta2 + one_minus_beta2 * (g * g);
    p = p - step_size * (m / (std::sqrt(v) / sqrt_bias_correction2 + epsilon));
  }
};

// What an optimizer's canonical attributes say, as numbers that can be handed to a GPU.

struct SgdConstants {
  explicit SgdConstants(const Attributes& attributes)
      : lr(attributes.number("lr")), weight_decay(attributes.number("weight_decay")) {}
  double lr;
  double weight_decay;
};

struct MomentumConstants {
  explicit MomentumConstants(const Attributes& attributes)
      : lr(attributes.number("lr")),
        weight_decay(attributes.number("weight_decay")),
        momentum(attributes.number("momentum")),
        dampening(attributes.number("dampening")),
        is_nesterov(attributes.flag("nesterov")) {}
  double lr;
  double weight_decay;
  double momentum;
  double dampening;
  bool is_nesterov;
};

struct AdamConstants {
  explicit AdamConstants(const Attributes& attributes)
      : lr(attributes.number("lr")),
        beta1(attributes.number("beta1")),
        beta2(attributes.number("beta2")),
        epsilon(attributes.number("epsilon")),
        weight_decay(attributes.number("weight_decay")),
        is_decoupled(attributes.flag("decoupled")) {}
  double lr;
  double beta1;
  double beta2;
  double epsilon;
  double weight_decay;
  bool is_decoupled;
};

// The scalars of a step, computed in double and rounded once.

template <class T>
MPC_HD SgdStep<T> sgd_step(const SgdConstants& c, double lr_scale, double grad_scale) {
  return {static_cast<T>(c.lr * lr_scale), static_cast<T>(c.weight_decay), static_cast<T>(grad_scale)};
}

/// @param step 1 for the first update.
template <class T>
MPC_HD MomentumStep<T> momentum_step(const MomentumConstants& c, int64_t step, double lr_scale, double grad_scale) {
  return {static_cast<T>(c.lr * lr_scale),
          static_cast<T>(c.weight_decay),
          static_cast<T>(grad_scale),
          static_cast<T>(c.momentum),
          static_cast<T>(1.0 - c.dampening),
          c.is_nesterov,
          step == 1};
}

/// @param step 1 for the first update.
template <class T>
MPC_HD AdamStep<T> adam_step(const AdamConstants& c, int64_t step, double lr_scale, double grad_scale) {
  const double lr = c.lr * lr_scale;
  const double t = static_cast<double>(step);
  return {static_cast<T>(lr / (1.0 - std::pow(c.beta1, t))),
          static_cast<T>(std::sqrt(1.0 - std::pow(c.beta2, t))),
          static_cast<T>(1.0 - c.beta1),
          static_cast<T>(c.beta2),
          static_cast<T>(1.0 - c.beta2),
          static_cast<T>(c.epsilon),
          static_cast<T>(grad_scale),
          static_cast<T>(c.is_decoupled ? 0.0 : c.weight_decay),
          static_cast<T>(c.is_decoupled ? 1.0 - lr * c.weight_decay : 1.0)};
}

}  // namespace mpc::functors
