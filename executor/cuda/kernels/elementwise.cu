// Elementwise operators with one operand, and their gradients: the functors of executor/functors, in f32 over f32, f16
// and bf16 tensors, in f64 over f64 ones; and what integers have. A result may take the bytes of its operand: every
// element is read before it is written.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

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

/// A tensor whose rows are followed by others on one side: columns of a wider one.
struct Columns {
  int64_t count;      // elements
  int64_t columns;    // of a row; not 0
  int64_t from_step;  // elements from one row to the next
  int64_t to_step;
  int64_t from_begin;
  int64_t to_begin;
};

/// A tensor alone.
Columns whole_tensor(int64_t count) {
  return {count, std::max<int64_t>(count, 1), 0, 0, 0, 0};
}

/// A body with operand x and result y, on every element of many tensors.
template <class Body>
struct OfTensors {
  static constexpr int kMostTensors = 440;  // of one launch
  struct Tensor {
    const void* from;
    void* to;
    int64_t first_run;
    Columns shape;
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
    const int64_t length = run_length(run - tensor.first_run, tensor.shape.count);
    if (tensor.shape.columns >= tensor.shape.count) {  // one row: spared the divisions
      block.for_each(length,
                     [&](int64_t k) { one(tensor.shape.from_begin + begin + k, tensor.shape.to_begin + begin + k); });
      return;
    }
    block.for_each(length, [&](int64_t k) {
      const int64_t row = (begin + k) / tensor.shape.columns;
      const int64_t column = (begin + k) % tensor.shape.columns;
      one(tensor.shape.from_begin + row * tensor.shape.from_step + column,
          tensor.shape.to_begin + row * tensor.shape.to_step + column);
    });
  }
};

struct CastIntegerToFloat {
  IntegerIn x;
  FloatOut y;
  MPC_DEVICE void operator()(int64_t i) const { (*this)(i, i); }
  MPC_DEVICE void operator()(int64_t from, int64_t to) const {
    y.set(to, x.dtype == DType::u64 ? static_cast<float>(static_cast<uint64_t>(x[from])) : static_cast<float>(x[from]));
  }
};

struct CastFloat {
  FloatIn x;
  FloatOut y;
  MPC_DEVICE void operator()(int64_t i) const { y.set(i, x[i]); }
  MPC_DEVICE void operator()(int64_t from, int64_t to) const { y.set(to, x[from]); }
};

struct CastInteger {
  IntegerIn x;
  IntegerOut y;
  MPC_DEVICE void operator()(int64_t i) const { y.set(i, x[i]); }
  MPC_DEVICE void operator()(int64_t from, int64_t to) const { y.set(to, x[from]); }
};

/// Through f64: whatever has f64 on one side, and floats to integers.
struct CastByDouble {
  DoubleIn x;
  DoubleOut y;
  MPC_DEVICE void operator()(int64_t i) const { y.set(i, x[i]); }
  MPC_DEVICE void operator()(int64_t from, int64_t to) const { y.set(to, x[from]); }
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

namespace {

/// One tensor of a launch: which operand it comes from, and which result it goes to.
struct Move {
  size_t input;
  size_t output;
  Columns shape;
};

template <class Body>
KernelOrReason of_tensors(const Body& body, const std::vector<Move>& moves) {
  return function_kernel("cuda:functor", [body, moves](const Launch& launch) {
    using Bodies = OfTensors<Body>;
    static_assert(sizeof(Bodies) <= kMostTableBytes);
    for (size_t first = 0; first < moves.size(); first += Bodies::kMostTensors) {
      Bodies bodies;
      bodies.body = body;
      int64_t runs = 0;
      for (size_t t = first; t < moves.size() && t < first + Bodies::kMostTensors; ++t) {
        const Move& move = moves[t];
        bodies.tensors[bodies.tensor_count++] = {launch.inputs[move.input], launch.out<void>(move.output), runs,
                                                 move.shape};
        runs += runs_of(move.shape.count);
      }
      for_each_block(launch.stream, runs, bodies, "many tensors");
    }
  });
}

/// f(body) with the body that casts from `in` to `out`.
template <class F>
KernelOrReason with_cast_body(DType in, DType out, F&& f) {
  const auto typed = [&](auto body) {
    body.x.dtype = in;
    body.y.dtype = out;
    return f(body);
  };
  if (is_small_float(in) && is_small_float(out)) return typed(CastFloat{});
  if (is_whole(in) && is_small_float(out)) return typed(CastIntegerToFloat{});
  if (is_whole(in) && is_whole(out)) return typed(CastInteger{});
  return typed(CastByDouble{});
}

/// Columns `begin` on of a tensor of `whole` columns, and a tensor of those alone.
Columns part_of(const Shape& part, const Shape& whole, int64_t begin, bool is_joined) {
  const int axis = part.rank() - 1;
  const int64_t columns = std::max<int64_t>(part[axis], 1);
  if (is_joined) return {part.elements(), columns, columns, whole[axis], 0, begin};
  return {part.elements(), columns, whole[axis], columns, begin, 0};
}

}  // namespace

KernelOrReason cast(const executor::NodeSpec& node, const MakeOptions&) {
  const bool is_joined = node.attributes->has("joined");
  std::vector<Move> moves;
  size_t input = 0;
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    const int64_t count = is_joined ? node.attributes->integers("joined")[i] : 1;
    int64_t begin = 0;
    for (int64_t k = 0; k < count; ++k, ++input) {
      const Shape& part = node.inputs[input].shape;
      if (!has_output(node, i)) continue;
      moves.push_back(
          {input, i, is_joined ? part_of(part, node.outputs[i].shape, begin, true) : whole_tensor(part.elements())});
      if (is_joined) begin += part[part.rank() - 1];
    }
  }
  return with_cast_body(input_dtype(node, 0), output_dtype(node, 0), [&](auto body) {
    if (node.inputs.size() > 1) return of_tensors(body, moves);
    return function_kernel("cuda:functor", [body, count = node.outputs[0].shape.elements()](const Launch& launch) {
      auto bound = body;
      bound.x.data = launch.inputs[0];
      bound.y.data = launch.outputs[0];
      for_each(launch.stream, count, bound, "Cast");
    });
  });
}

KernelOrReason split_many(const executor::NodeSpec& node, const MakeOptions&) {
  const std::vector<int64_t>& lengths = node.attributes->integers("split");
  std::vector<Move> moves;
  size_t next = 0;
  for (size_t input = 0; input < node.inputs.size(); ++input) {
    const Shape& whole = node.inputs[input].shape;
    int64_t begin = 0;
    for (int64_t k = 0; k < node.attributes->integers("parts")[input]; ++k, ++next) {
      Shape part = whole;
      part.set(whole.rank() - 1, lengths[next]);
      if (has_output(node, next)) moves.push_back({input, next, part_of(part, whole, begin, false)});
      begin += lengths[next];
    }
  }
  const DType dtype = input_dtype(node, 0);
  return with_cast_body(dtype, dtype, [&](auto body) { return of_tensors(body, moves); });
}

}  // namespace mpc::cuda
