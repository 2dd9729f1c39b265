// Elementwise operators with one operand, and their gradients, in f32 and f64. The maths is that of executor/functors;
// the functions that networks spend their time in have a form here that compiles to vector code (vector_math.h). Loops
// say "ivdep": a result may take the bytes of its operand, element for element, and nothing else overlaps.

#include "executor/functors/parameters_of.h"
#include "executor/functors/unary.h"

#include "executor/cpu/factories.h"
#include "executor/cpu/support.h"
#include "executor/cpu/vector_math.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements below which a second thread costs more than it saves

template <class T>
using Parameters = functors::Parameters<T>;

template <class T>
struct UnaryCall {
  const T* x;   // forward: the operand
  const T* dy;  // gradient
  const T* y;   // gradient
  T* out;
  Parameters<T> parameters;
};

// The vectorized functions. f32 only.
struct VectorExp {
  [[gnu::always_inline]] static float value(float x, Parameters<float>) { return fast_exp(x); }
  [[gnu::always_inline]] static float gradient(float dy, float, float y, Parameters<float>) { return dy * y; }
};
struct VectorSigmoid {
  [[gnu::always_inline]] static float value(float x, Parameters<float>) { return fast_sigmoid(x); }
  [[gnu::always_inline]] static float gradient(float dy, float, float y, Parameters<float>) {
    return dy * y * (1.0f - y);
  }
};
struct VectorTanh {
  [[gnu::always_inline]] static float value(float x, Parameters<float>) { return fast_tanh(x); }
  [[gnu::always_inline]] static float gradient(float dy, float, float y, Parameters<float>) {
    return dy * (1.0f - y * y);
  }
};
struct VectorErf {
  [[gnu::always_inline]] static float value(float x, Parameters<float>) { return fast_erf(x); }
  [[gnu::always_inline]] static float gradient(float dy, float x, float, Parameters<float>) {
    constexpr float kTwoOverSqrtPi = 1.12837917f;
    return dy * (kTwoOverSqrtPi * fast_exp(-x * x));
  }
};
/// x Phi(x).
struct VectorGelu {
  [[gnu::always_inline]] static float value(float x, Parameters<float>) {
    return 0.5f * x * (1.0f + fast_erf(x * 0.707106781f));
  }
  [[gnu::always_inline]] static float gradient(float dy, float x, float, Parameters<float>) {
    constexpr float kOneOverSqrtTwoPi = 0.398942280f;
    const float cdf = 0.5f * (1.0f + fast_erf(x * 0.707106781f));
    return dy * (cdf + x * (kOneOverSqrtTwoPi * fast_exp(-0.5f * x * x)));
  }
};
/// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
struct VectorTanhGelu {
  static constexpr float kScale = 0.797884561f;
  static constexpr float kCubic = 0.044715f;
  [[gnu::always_inline]] static float value(float x, Parameters<float>) {
    return 0.5f * x * (1.0f + fast_tanh(kScale * (x + kCubic * x * x * x)));
  }
  [[gnu::always_inline]] static float gradient(float dy, float x, float, Parameters<float>) {
    const float t = fast_tanh(kScale * (x + kCubic * x * x * x));
    const float slope = kScale * (1.0f + 3.0f * kCubic * x * x);
    return dy * (0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * slope);
  }
};

// Not templates: compilers clone functions for instruction sets only outside of templates.
#define MPC_VECTOR_LOOPS(name)                                                                                 \
  MPC_CLONES void name##_values(const UnaryCall<float>& call, int64_t begin, int64_t end) {                    \
    const float* x = call.x;                                                                                   \
    float* out = call.out;                                                                                     \
    _Pragma("GCC ivdep") for (int64_t i = begin; i < end; ++i) out[i] = name::value(x[i], {});                 \
  }                                                                                                            \
  MPC_CLONES void name##_gradients(const UnaryCall<float>& call, int64_t begin, int64_t end) {                 \
    const float* x = call.x;                                                                                   \
    const float* dy = call.dy;                                                                                 \
    const float* y = call.y;                                                                                   \
    float* out = call.out;                                                                                     \
    _Pragma("GCC ivdep") for (int64_t i = begin; i < end; ++i) out[i] = name::gradient(dy[i], x[i], y[i], {}); \
  }
MPC_VECTOR_LOOPS(VectorErf)
MPC_VECTOR_LOOPS(VectorExp)
MPC_VECTOR_LOOPS(VectorGelu)
MPC_VECTOR_LOOPS(VectorSigmoid)
MPC_VECTOR_LOOPS(VectorTanh)
MPC_VECTOR_LOOPS(VectorTanhGelu)
#undef MPC_VECTOR_LOOPS

template <class F, class T>
void values(const UnaryCall<T>& call, int64_t begin, int64_t end) {
  const T* x = call.x;
  T* out = call.out;
  const Parameters<T> parameters = call.parameters;
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) out[i] = F::value(x[i], parameters);
}

template <class F, class T>
void gradients(const UnaryCall<T>& call, int64_t begin, int64_t end) {
  const T* x = call.x;
  const T* dy = call.dy;
  const T* y = call.y;
  T* out = call.out;
  const Parameters<T> parameters = call.parameters;
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) out[i] = F::gradient(dy[i], x[i], y[i], parameters);
}

template <class T>
using Loop = void (*)(const UnaryCall<T>&, int64_t, int64_t);

template <class T>
Loop<T> scalar_values(OpKind function) {
  switch (function) {
#define MPC_CASE(name) \
  case OpKind::name:   \
    return &values<functors::name, T>;
    MPC_UNARY(MPC_CASE)
#undef MPC_CASE
    default:
      return nullptr;
  }
}

template <class T>
Loop<T> scalar_gradients(OpKind function) {
  switch (function) {
#define MPC_CASE(name) \
  case OpKind::name:   \
    return &gradients<functors::name, T>;
    MPC_DIFFERENTIABLE_UNARY(MPC_CASE)
#undef MPC_CASE
    default:
      return nullptr;
  }
}

bool is_tanh_gelu(const Attributes& attributes) {
  return attributes.text("approximate") == "tanh";
}

template <class T>
Loop<T> values_loop(OpKind function, const Attributes&) {
  return scalar_values<T>(function);
}
template <>
Loop<float> values_loop(OpKind function, const Attributes& attributes) {
  switch (function) {
    case OpKind::Erf:
      return &VectorErf_values;
    case OpKind::Exp:
      return &VectorExp_values;
    case OpKind::Gelu:
      return is_tanh_gelu(attributes) ? &VectorTanhGelu_values : &VectorGelu_values;
    case OpKind::Sigmoid:
      return &VectorSigmoid_values;
    case OpKind::Tanh:
      return &VectorTanh_values;
    default:
      return scalar_values<float>(function);
  }
}

template <class T>
Loop<T> gradients_loop(OpKind function, const Attributes&) {
  return scalar_gradients<T>(function);
}
template <>
Loop<float> gradients_loop(OpKind function, const Attributes& attributes) {
  switch (function) {
    case OpKind::Erf:
      return &VectorErf_gradients;
    case OpKind::Exp:
      return &VectorExp_gradients;
    case OpKind::Gelu:
      return is_tanh_gelu(attributes) ? &VectorTanhGelu_gradients : &VectorGelu_gradients;
    case OpKind::Sigmoid:
      return &VectorSigmoid_gradients;
    case OpKind::Tanh:
      return &VectorTanh_gradients;
    default:
      return scalar_gradients<float>(function);
  }
}

template <class T>
Parameters<T> parameters_of(OpKind function, const Attributes& attributes) {
  const Parameters<double> p = functors::parameters_of(function, attributes);
  return {static_cast<T>(p.a), static_cast<T>(p.b)};
}

/// A loop over one operand, or over (dy, x?, y?) for a gradient.
template <class T>
class UnaryKernel final : public Kernel {
 public:
  UnaryKernel(Loop<T> loop, Parameters<T> parameters, bool is_gradient, int threads)
      : loop_(loop), parameters_(parameters), is_gradient_(is_gradient), threads_(threads) {}

  void run(const KernelCall& call) override {
    const T* first = call.inputs[0].as<T>();
    UnaryCall<T> operands{first, first, first, call.outputs[0].as<T>(), parameters_};
    // What a function does not need may be absent; it then reads dy in its place and ignores it.
    if (is_gradient_ && call.has_input(1)) operands.x = call.inputs[1].as<T>();
    if (is_gradient_ && call.has_input(2)) operands.y = call.inputs[2].as<T>();
    parallel_for(threads_, call.outputs[0].shape.elements(), kGrain,
                 [&](int64_t begin, int64_t end) { loop_(operands, begin, end); });
  }
  std::string_view name() const override { return "cpu:functor"; }

 private:
  Loop<T> loop_;
  Parameters<T> parameters_;
  bool is_gradient_;
  int threads_;
};

template <class T>
KernelOrReason make_unary(const NodeSpec& node) {
  const bool is_gradient = node.op == OpKind::UnaryGrad;
  const OpKind function = is_gradient ? *find_op(node.attributes->text("function")) : node.op;
  const Loop<T> loop =
      is_gradient ? gradients_loop<T>(function, *node.attributes) : values_loop<T>(function, *node.attributes);
  if (loop == nullptr) return declined("elementwise loops: no functor");
  return {
      std::make_unique<UnaryKernel<T>>(loop, parameters_of<T>(function, *node.attributes), is_gradient, node.threads),
      {}};
}

}  // namespace

KernelOrReason unary_loops(const NodeSpec& node) {
  if (all_of_type(node, DType::f32)) return make_unary<float>(node);
  if (all_of_type(node, DType::f64)) return make_unary<double>(node);
  return declined("elementwise loops: only f32 and f64");
}

}  // namespace mpc::cpu
