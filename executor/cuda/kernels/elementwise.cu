// Elementwise operators with one operand, and their gradients: the functors of executor/functors, in f32 over f32, f16
// and bf16 tensors, in f64 over f64 ones; and what integers have. A result may take the bytes of its operand: every
// element is read before it is written.

#include <cmath>
#include <limits>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/tensor_runs.h"
#include "executor/functors/parameters_of.h"
#include "executor/functors/unary.h"

namespace mpc::cuda {
namespace {

using functors::Parameters;

template <class T>
Parameters<T> narrowed_parameters(OpKind function, const Attributes& attributes) {
  const Parameters<double> p = functors::parameters_of(function, attributes);
  return {static_cast<T>(p.a), static_cast<T>(p.b)};
}

template <class F, class T>
struct Values {
  In<T> x;
  Out<T> y;
  Parameters<T> parameters;
  MPC_DEVICE void operator()(int64_t i) const { y.set(i, F::value(x[i], parameters)); }
};

template <class F, class T>
struct Gradients {
  In<T> dy;
  In<T> x;  // what a function does not need may be absent: it then reads dy in its place and ignores it
  In<T> y;
  Out<T> dx;
  Parameters<T> parameters;
  MPC_DEVICE void operator()(int64_t i) const { dx.set(i, F::gradient(dy[i], x[i], y[i], parameters)); }
};

template <class F>
KernelOrReason values(const executor::NodeSpec& node) {
  const int64_t count = node.outputs[0].shape.elements();
  const DType in = input_dtype(node, 0);
  const DType out = output_dtype(node, 0);
  const auto make = [&](auto tag) {
    using T = decltype(tag);
    const auto parameters = narrowed_parameters<T>(node.op, *node.attributes);
    return function_kernel("cuda:functor", [=](const Launch& launch) {
      for_each(launch.stream, count, Values<F, T>{{launch.inputs[0], in}, {launch.outputs[0], out}, parameters},
               "unary");
    });
  };
  return first_not_float(node) ? make(double{}) : with_float_type(node, make);  // integers: in f64, truncated
}

template <class F>
KernelOrReason gradients(const executor::NodeSpec& node, OpKind function) {
  const int64_t count = node.outputs[0].shape.elements();
  const DType dy = input_dtype(node, 0);
  const size_t x_at = has_input(node, 1) ? 1 : 0;
  const size_t y_at = has_input(node, 2) ? 2 : 0;
  const DType x = input_dtype(node, x_at);
  const DType y = input_dtype(node, y_at);
  const DType dx = output_dtype(node, 0);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    const auto parameters = narrowed_parameters<T>(function, *node.attributes);
    return function_kernel("cuda:functor", [=](const Launch& launch) {
      for_each(launch.stream, count,
               Gradients<F, T>{{launch.inputs[0], dy},
                               {launch.inputs[x_at], x},
                               {launch.inputs[y_at], y},
                               {launch.outputs[0], dx},
                               parameters},
               "unary gradient");
    });
  });
}

/// The functions that integers have too. Results wrap.
enum class WholeFunction : uint8_t { abs, clip, neg, relu, sign };

template <class T>
struct WholeValues {
  In<T> x;
  Out<T> y;
  WholeFunction function;
  T low;  // of a Clip
  T high;
  MPC_DEVICE void operator()(int64_t i) const {
    const T value = x[i];
    const T negated = static_cast<T>(uint64_t{0} - static_cast<uint64_t>(value));
    switch (function) {
      case WholeFunction::abs:
        return y.set(i, value < T{0} ? negated : value);
      case WholeFunction::clip: {
        const T raised = value < low ? low : value;
        return y.set(i, high < raised ? high : raised);
      }
      case WholeFunction::neg:
        return y.set(i, negated);
      case WholeFunction::relu:
        return y.set(i, value < T{0} ? T{0} : value);
      case WholeFunction::sign:
        return y.set(i, static_cast<T>((value > T{0} ? 1 : 0) - (value < T{0} ? 1 : 0)));
    }
  }
};

/// A bound of a Clip as an integer: the next one inwards, within the range of the type.
template <class T>
T whole_bound(double bound, bool is_lower) {
  const double whole = is_lower ? std::ceil(bound) : std::floor(bound);
  using Limits = std::numeric_limits<T>;
  if (!(whole > static_cast<double>(Limits::min()))) return Limits::min();
  return whole >= static_cast<double>(Limits::max()) ? Limits::max() : static_cast<T>(whole);
}

std::optional<WholeFunction> whole_function(OpKind op) {
  switch (op) {
    case OpKind::Abs:
      return WholeFunction::abs;
    case OpKind::Clip:
      return WholeFunction::clip;
    case OpKind::Neg:
      return WholeFunction::neg;
    case OpKind::Relu:
      return WholeFunction::relu;
    case OpKind::Sign:
      return WholeFunction::sign;
    default:
      return std::nullopt;
  }
}

template <class T>
KernelOrReason whole_values(const executor::NodeSpec& node, WholeFunction function) {
  const int64_t count = node.outputs[0].shape.elements();
  WholeValues<T> body{{nullptr, input_dtype(node, 0)}, {nullptr, output_dtype(node, 0)}, function, 0, 0};
  if (function == WholeFunction::clip) {
    body.low = whole_bound<T>(node.attributes->number("min"), true);
    body.high = whole_bound<T>(node.attributes->number("max"), false);
  }
  return function_kernel("cuda:functor", [=](const Launch& launch) {
    WholeValues<T> bound = body;
    bound.x.data = launch.inputs[0];
    bound.y.data = launch.outputs[0];
    for_each(launch.stream, count, bound, "unary");
  });
}

struct Invert {
  IntegerIn x;
  IntegerOut y;
  MPC_DEVICE void operator()(int64_t i) const { y.set(i, x[i] == 0 ? 1 : 0); }
};

template <class T>
struct Classify {
  In<T> x;
  IntegerOut y;
  bool is_nan_asked;
  bool takes_positive;
  bool takes_negative;
  MPC_DEVICE void operator()(int64_t i) const {
    const T value = x[i];
    const bool is_nan = value != value;
    const bool is_positive = takes_positive && value == T{INFINITY};
    const bool is_negative = takes_negative && value == -T{INFINITY};
    y.set(i, (is_nan_asked ? is_nan : is_positive || is_negative) ? 1 : 0);
  }
};

/// A body with operand x and result y, on every element of many tensors.
template <class Body>
struct OfTensors {
  static constexpr int kMostTensors = 900;  // of one launch
  struct Tensor {
    const void* from;
    void* to;
    int64_t count;
    int64_t first_run;
  };
  Body body = {};
  int tensor_count = 0;
  Tensor tensors[kMostTensors] = {};

  MPC_DEVICE void operator()(Block& block, int64_t run) const {
    const Tensor& tensor = tensors[tensor_of(tensors, tensor_count, run)];
    const int64_t begin = (run - tensor.first_run) * kRun;
    Body one = body;
    one.x.data = tensor.from;
    one.y.data = tensor.to;
    block.for_each(run_length(run - tensor.first_run, tensor.count), [&](int64_t k) { one(begin + k); });
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

/// Through f64: whatever has f64 on one side, and floats to integers.
struct CastByDouble {
  DoubleIn x;
  DoubleOut y;
  MPC_DEVICE void operator()(int64_t i) const { y.set(i, x[i]); }
};

}  // namespace

KernelOrReason unary(const executor::NodeSpec& node, const MakeOptions&) {
  const auto other = first_not_float(node);
  const auto function = whole_function(node.op);
  if (other && function) {
    return *other == DType::u64 ? whole_values<uint64_t>(node, *function) : whole_values<int64_t>(node, *function);
  }
  switch (node.op) {
#define MPC_CASE(name) \
  case OpKind::name:   \
    return values<functors::name>(node);
    MPC_UNARY(MPC_CASE)
#undef MPC_CASE
    default:
      return declined("unary: no functor");
  }
}

KernelOrReason unary_gradient(const executor::NodeSpec& node, const MakeOptions&) {
  if (first_not_float(node)) return declined("unary gradient: only floats");
  const OpKind function = *find_op(node.attributes->text("function"));
  switch (function) {
#define MPC_CASE(name) \
  case OpKind::name:   \
    return gradients<functors::name>(node, function);
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
  const bool is_nan_asked = node.op == OpKind::IsNaN;
  const bool positive = !is_nan_asked && node.attributes->flag("detect_positive");
  const bool negative = !is_nan_asked && node.attributes->flag("detect_negative");
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    return function_kernel("cuda:functor", [=](const Launch& launch) {
      for_each(
          launch.stream, count,
          Classify<T>{{launch.inputs[0], in}, {launch.outputs[0], DType::boolean}, is_nan_asked, positive, negative},
          "predicate");
    });
  });
}

KernelOrReason cast(const executor::NodeSpec& node, const MakeOptions&) {
  std::vector<int64_t> counts;
  for (const auto& output : node.outputs) counts.push_back(output.is_present ? output.shape.elements() : 0);
  const DType in = input_dtype(node, 0);
  const DType out = output_dtype(node, 0);
  const auto make = [&](auto body) {
    body.x.dtype = in;
    body.y.dtype = out;
    if (counts.size() == 1) {
      return function_kernel("cuda:functor", [body, count = counts[0]](const Launch& launch) {
        auto bound = body;
        bound.x.data = launch.inputs[0];
        bound.y.data = launch.outputs[0];
        for_each(launch.stream, count, bound, "Cast");
      });
    }
    return function_kernel("cuda:functor", [body, counts](const Launch& launch) {
      using Bodies = OfTensors<decltype(body)>;
      static_assert(sizeof(Bodies) <= kMostTableBytes);
      for (size_t first = 0; first < counts.size(); first += Bodies::kMostTensors) {
        Bodies bodies;
        bodies.body = body;
        int64_t runs = 0;
        for (size_t t = first; t < counts.size() && t < first + Bodies::kMostTensors; ++t) {
          bodies.tensors[bodies.tensor_count++] = {launch.inputs[t], launch.out<void>(t), counts[t], runs};
          runs += runs_of(counts[t]);
        }
        for_each_block(launch.stream, runs, bodies, "Cast");
      }
    });
  };
  if (is_small_float(in) && is_small_float(out)) return make(CastFloat{});
  if (is_whole(in) && is_small_float(out)) return make(CastIntegerToFloat{});
  if (is_whole(in) && is_whole(out)) return make(CastInteger{});
  return make(CastByDouble{});
}

}  // namespace mpc::cuda
