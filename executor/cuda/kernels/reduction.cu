// Reductions over any axes, ArgMax, ArgMin and CumSum. Dimensions that are all kept or all reduced become one. Sums of
// floats are kept in f64, those of integers wrap; their order depends on the shape alone. A result is made by one block
// when its group is long and lies together, and by one thread when neighbouring results lie together.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/candidate.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/views.h"
#include "executor/functors/binary.h"

namespace mpc::cuda {
namespace {

/// How an element enters a sum, and how the sum becomes the result.
struct SumRule {
  enum class Enter : uint8_t { as_is, magnitude, square };
  enum class Leave : uint8_t { as_is, mean, root, logarithm };
  Enter enter = Enter::as_is;
  Leave leave = Leave::as_is;

  template <class T>
  MPC_DEVICE Total<T> entered(T value) const {
    const Total<T> x = static_cast<Total<T>>(value);
    if (enter == Enter::square) return functors::Mul::value(x, x);
    if (enter == Enter::magnitude && x < 0) return functors::Sub::value(Total<T>{0}, x);
    return x;
  }
  /// Roots and logarithms are asked for floats only.
  template <class T>
  MPC_DEVICE T left(Total<T> sum, int64_t count) const {
    if (leave == Leave::mean) return static_cast<T>(functors::Div::value(sum, static_cast<Total<T>>(count)));
    if constexpr (!std::is_integral_v<T>) {
      if (leave == Leave::root) return static_cast<T>(std::sqrt(sum));
      if (leave == Leave::logarithm) return static_cast<T>(std::log(sum));
    }
    return static_cast<T>(sum);
  }
};

struct AddUp {
  template <class T>
  MPC_DEVICE T operator()(T a, T b) const {
    return functors::Add::value(a, b);
  }
};
struct MultiplyUp {
  template <class T>
  MPC_DEVICE T operator()(T a, T b) const {
    return functors::Mul::value(a, b);
  }
};

/// The elements of a group: kept dimensions say where it begins, reduced ones where its elements are.
struct Groups {
  Walk<1> kept;
  Walk<1> reduced;
  int64_t count = 0;  // elements of a group
  int64_t results = 0;
  MPC_DEVICE int64_t begin(int64_t result) const { return kept.positions(result).at[0]; }
  MPC_DEVICE int64_t element(int64_t i) const { return reduced.positions(i).at[0]; }
};

/// How the elements of a group are put together: by one thread, or by a block.
struct OneThread {
  template <class T, class F, class Combine>
  MPC_DEVICE T reduce(int64_t count, T identity, F f, Combine combine) {
    T result = identity;
    for (int64_t i = 0; i < count; ++i) result = combine(result, f(i));
    return result;
  }
};

// A reduction: what the elements x[begin + element(i)] of a group give, put together by `team`.
template <class T>
struct SumReduction {
  using Element = T;
  SumRule rule;
  template <class Team>
  MPC_DEVICE T of(Team& team, const In<T>& x, const Groups& groups, int64_t begin) const {
    const auto element = [&](int64_t i) { return rule.entered(x[begin + groups.element(i)]); };
    return rule.left<T>(team.reduce(groups.count, Total<T>{0}, element, AddUp{}), groups.count);
  }
};

/// NaN beats everything.
template <class T>
struct ExtremumReduction {
  using Element = T;
  bool is_max;
  T identity;
  template <class Team>
  MPC_DEVICE T of(Team& team, const In<T>& x, const Groups& groups, int64_t begin) const {
    return team.reduce(
        groups.count, identity, [&](int64_t i) { return x[begin + groups.element(i)]; },
        [this](T a, T b) { return is_max ? functors::Max::value(a, b) : functors::Min::value(a, b); });
  }
};

template <class T>
struct ProductReduction {
  using Element = T;
  template <class Team>
  MPC_DEVICE T of(Team& team, const In<T>& x, const Groups& groups, int64_t begin) const {
    const auto element = [&](int64_t i) { return static_cast<Total<T>>(x[begin + groups.element(i)]); };
    return static_cast<T>(team.reduce(groups.count, Total<T>{1}, element, MultiplyUp{}));
  }
};

template <class T>
struct LogSumExpReduction {
  using Element = T;
  template <class Team>
  MPC_DEVICE T of(Team& team, const In<T>& x, const Groups& groups, int64_t begin) const {
    const T greatest = ExtremumReduction<T>{true, -T{INFINITY}}.of(team, x, groups, begin);
    if (!(greatest - greatest == 0)) return greatest;  // nothing, an infinity or NaN decides the result
    const auto element = [&](int64_t i) {
      return static_cast<double>(std::exp(x[begin + groups.element(i)] - greatest));
    };
    const double sum = team.reduce(groups.count, 0.0, element, AddUp{});
    return static_cast<T>(static_cast<double>(greatest) + std::log(sum));
  }
};

template <class Reduction>
struct ByThread {
  In<typename Reduction::Element> x;
  Out<typename Reduction::Element> y;
  Groups groups;
  Reduction reduction;
  MPC_DEVICE void operator()(int64_t result) const {
    OneThread thread;
    y.set(result, reduction.of(thread, x, groups, groups.begin(result)));
  }
};

template <class Reduction>
struct ByBlock {
  In<typename Reduction::Element> x;
  Out<typename Reduction::Element> y;
  Groups groups;
  Reduction reduction;
  MPC_DEVICE void operator()(Block& block, int64_t result) const {
    const auto value = reduction.of(block, x, groups, groups.begin(result));
    block.for_each(1, [&](int64_t) { y.set(result, value); });
  }
};

/// What every element of the type at least, or at most, is.
template <class T>
T extreme(DType dtype, bool is_greatest) {
  if constexpr (!std::is_integral_v<T>) {
    return is_greatest ? std::numeric_limits<T>::infinity() : -std::numeric_limits<T>::infinity();
  } else {
    if (dtype == DType::boolean) return is_greatest ? 1 : 0;
    const bool is_signed = is_signed_integer(dtype);
    const int bits = static_cast<int>(8 * dtype_bytes(dtype)) - (is_signed ? 1 : 0);
    const T greatest = static_cast<T>(~uint64_t{0} >> (64 - bits));
    if (is_greatest) return greatest;
    return is_signed ? static_cast<T>(~static_cast<uint64_t>(greatest)) : T{0};
  }
}

Groups make_groups(const executor::NodeSpec& node) {
  const Shape& x = node.inputs[0].shape;
  const std::vector<int64_t>& axes = node.attributes->integers("axes");
  const Steps dense = strides(x);
  std::vector<int64_t> kept;
  std::vector<int64_t> reduced;
  Steps kept_steps{};
  Steps reduced_steps{};
  for (int axis = 0; axis < x.rank(); ++axis) {
    const bool is_reduced = std::find(axes.begin(), axes.end(), axis) != axes.end();
    std::vector<int64_t>& dims = is_reduced ? reduced : kept;
    (is_reduced ? reduced_steps : kept_steps)[dims.size()] = dense[static_cast<size_t>(axis)];
    dims.push_back(x[axis]);
  }
  Groups groups;
  groups.kept = make_walk<1>(Shape(kept), {kept_steps});
  groups.reduced = make_walk<1>(Shape(reduced), {reduced_steps});
  groups.count = Shape(reduced).elements();
  groups.results = Shape(kept).elements();
  return groups;
}

template <class Reduction>
KernelOrReason make(const executor::NodeSpec& node, const Groups& groups, Reduction reduction) {
  const DType in = input_dtype(node, 0);
  const DType out = output_dtype(node, 0);
  // Neighbouring results lie together when the innermost dimension is kept: threads then read side by side. With few
  // results a block each is faster all the same. Both depend on the shape alone.
  constexpr int64_t kShort = 32;
  constexpr int64_t kManyResults = 1024;
  const bool is_inner_kept = groups.kept.rank > 0 && groups.kept.step[0][groups.kept.rank - 1] == 1;
  const bool by_thread = groups.count <= kShort || (is_inner_kept && groups.results >= kManyResults);
  return function_kernel("cuda:reduction", [=](const Launch& launch) {
    const In<typename Reduction::Element> x{launch.inputs[0], in};
    const Out<typename Reduction::Element> y{launch.outputs[0], out};
    if (by_thread) {
      for_each(launch.stream, groups.results, ByThread<Reduction>{x, y, groups, reduction}, "reduction");
    } else {
      for_each_block(launch.stream, groups.results, ByBlock<Reduction>{x, y, groups, reduction}, "reduction");
    }
  });
}

template <class T>
struct ArgExtremum {
  In<T> x;
  IntegerOut y;
  int64_t length;
  int64_t inner;
  BetterCandidate<T> better;
  MPC_DEVICE void operator()(Block& block, int64_t result) const {
    const int64_t begin = result / inner * length * inner + result % inner;
    const Candidate<T> best = block.reduce(
        length, Candidate<T>{0, -1},
        [&](int64_t i) {
          return Candidate<T>{x[begin + i * inner], i};
        },
        better);
    block.for_each(1, [&](int64_t) { y.set(result, best.index); });
  }
};

/// One thread per line, in order.
template <class T>
struct RunningSum {
  In<T> x;
  Out<T> y;
  int64_t length;
  int64_t inner;
  bool is_exclusive;
  bool is_reverse;
  MPC_DEVICE void operator()(int64_t line) const {
    const int64_t begin = line / inner * length * inner + line % inner;
    Total<T> total = 0;
    for (int64_t step = 0; step < length; ++step) {
      const int64_t at = begin + (is_reverse ? length - 1 - step : step) * inner;
      const Total<T> with_this = functors::Add::value(total, static_cast<Total<T>>(x[at]));
      y.set(at, static_cast<T>(is_exclusive ? total : with_this));
      total = with_this;
    }
  }
};

template <class T>
KernelOrReason exact_reduction(const executor::NodeSpec& node, const Groups& groups) {
  using Enter = SumRule::Enter;
  using Leave = SumRule::Leave;
  switch (node.op) {
    case OpKind::ReduceSum:
      return make(node, groups, SumReduction<T>{});
    case OpKind::ReduceMean:
      if (std::is_integral_v<T> && groups.count == 0 && groups.results > 0) {
        return always_fault(node, MPC_CUDA_FAULT_DIVISION);
      }
      return make(node, groups, SumReduction<T>{{Enter::as_is, Leave::mean}});
    case OpKind::ReduceL1:
      return make(node, groups, SumReduction<T>{{Enter::magnitude, Leave::as_is}});
    case OpKind::ReduceSumSquare:
      return make(node, groups, SumReduction<T>{{Enter::square, Leave::as_is}});
    case OpKind::ReduceProd:
      return make(node, groups, ProductReduction<T>{});
    case OpKind::ReduceMax:
      return make(node, groups, ExtremumReduction<T>{true, extreme<T>(input_dtype(node, 0), false)});
    case OpKind::ReduceMin:
      return make(node, groups, ExtremumReduction<T>{false, extreme<T>(input_dtype(node, 0), true)});
    default:
      return declined("reduction: not one");
  }
}

template <class T>
KernelOrReason real_reduction(const executor::NodeSpec& node, const Groups& groups) {
  using Enter = SumRule::Enter;
  using Leave = SumRule::Leave;
  if (node.op == OpKind::ReduceL2) return make(node, groups, SumReduction<T>{{Enter::square, Leave::root}});
  if (node.op == OpKind::ReduceLogSum) return make(node, groups, SumReduction<T>{{Enter::as_is, Leave::logarithm}});
  return make(node, groups, LogSumExpReduction<T>{});
}

}  // namespace

KernelOrReason reduction(const executor::NodeSpec& node, const MakeOptions&) {
  const Groups groups = make_groups(node);
  const DType dtype = input_dtype(node, 0);
  if (node.op == OpKind::ReduceL2 || node.op == OpKind::ReduceLogSum || node.op == OpKind::ReduceLogSumExp) {
    // Of integers in f64, truncated.
    return is_small_float(dtype) ? real_reduction<float>(node, groups) : real_reduction<double>(node, groups);
  }
  return with_compute_type(dtype, [&](auto tag) { return exact_reduction<decltype(tag)>(node, groups); });
}

KernelOrReason arg_extremum(const executor::NodeSpec& node, const MakeOptions&) {
  const DType in = input_dtype(node, 0);
  const Shape& x = node.inputs[0].shape;
  const int axis = static_cast<int>(node.attributes->integer("axis"));
  const int64_t length = x[axis];
  const int64_t inner = x.elements(axis + 1, x.rank());
  const int64_t results = node.outputs[0].shape.elements();
  const DType out = output_dtype(node, 0);
  const bool is_max = node.op == OpKind::ArgMax;
  const bool takes_last = node.attributes->flag("select_last_index");
  return with_compute_type(in, [&](auto tag) {
    using T = decltype(tag);
    return function_kernel("cuda:reduction", [=](const Launch& launch) {
      for_each_block(
          launch.stream, results,
          ArgExtremum<T>{{launch.inputs[0], in}, {launch.outputs[0], out}, length, inner, {is_max, takes_last}},
          "ArgMax");
    });
  });
}

KernelOrReason cumulative_sum(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& x = node.inputs[0].shape;
  const int axis = static_cast<int>(node.attributes->integer("axis"));
  const int64_t length = x[axis];
  const int64_t inner = x.elements(axis + 1, x.rank());
  const int64_t lines = length == 0 ? 0 : x.elements() / length;
  const DType in = input_dtype(node, 0);
  const DType out = output_dtype(node, 0);
  const bool is_exclusive = node.attributes->flag("exclusive");
  const bool is_reverse = node.attributes->flag("reverse");
  return with_compute_type(in, [&](auto tag) {
    using T = decltype(tag);
    return function_kernel("cuda:running sum", [=](const Launch& launch) {
      for_each(launch.stream, lines,
               RunningSum<T>{{launch.inputs[0], in}, {launch.outputs[0], out}, length, inner, is_exclusive, is_reverse},
               "CumSum");
    });
  });
}

}  // namespace mpc::cuda
