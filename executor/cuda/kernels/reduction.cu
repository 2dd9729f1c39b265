// Reductions over any axes, ArgMax, ArgMin and CumSum. Dimensions that are all kept or all reduced become one. Sums are
// kept in f64; their order depends on the shape alone. A result is made by one block when its group is long and lies
// together, and by one thread when neighbouring results lie together.

#include <algorithm>
#include <cmath>
#include <vector>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/functors/binary.h"

namespace mpc::cuda {
namespace {

/// How an element enters a sum, and how the sum becomes the result.
struct SumRule {
  enum class Enter : uint8_t { as_is, magnitude, square };
  enum class Leave : uint8_t { as_is, mean, root, logarithm };
  Enter enter = Enter::as_is;
  Leave leave = Leave::as_is;

  MPC_DEVICE double entered(float value) const {
    const double x = static_cast<double>(value);
    if (enter == Enter::square) return x * x;
    return enter == Enter::magnitude ? std::fabs(x) : x;
  }
  MPC_DEVICE float left(double sum, int64_t count) const {
    if (leave == Leave::mean) return static_cast<float>(sum / static_cast<double>(count));
    if (leave == Leave::root) return static_cast<float>(std::sqrt(sum));
    if (leave == Leave::logarithm) return static_cast<float>(std::log(sum));
    return static_cast<float>(sum);
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

/// NaN beats everything.
struct Extremum {
  bool is_max;
  MPC_DEVICE float operator()(float a, float b) const {
    return is_max ? functors::Max::value(a, b) : functors::Min::value(a, b);
  }
};

// A reduction as its steps: `whole` for one thread, `shared` for a block.
struct SumReduction {
  SumRule rule;
  MPC_DEVICE float whole(const FloatIn& x, const Groups& groups, int64_t begin) const {
    double sum = 0;
    for (int64_t i = 0; i < groups.count; ++i) sum += rule.entered(x[begin + groups.element(i)]);
    return rule.left(sum, groups.count);
  }
  MPC_DEVICE float shared(Block& block, const FloatIn& x, const Groups& groups, int64_t begin) const {
    const double sum = block.sum(groups.count, [&](int64_t i) { return rule.entered(x[begin + groups.element(i)]); });
    return rule.left(sum, groups.count);
  }
};

struct ExtremumReduction {
  Extremum extremum;
  MPC_DEVICE float identity() const { return extremum.is_max ? -INFINITY : INFINITY; }
  MPC_DEVICE float whole(const FloatIn& x, const Groups& groups, int64_t begin) const {
    float best = identity();
    for (int64_t i = 0; i < groups.count; ++i) best = extremum(best, x[begin + groups.element(i)]);
    return best;
  }
  MPC_DEVICE float shared(Block& block, const FloatIn& x, const Groups& groups, int64_t begin) const {
    return block.reduce(
        groups.count, identity(), [&](int64_t i) { return x[begin + groups.element(i)]; }, extremum);
  }
};

struct ProductReduction {
  MPC_DEVICE float whole(const FloatIn& x, const Groups& groups, int64_t begin) const {
    double product = 1;
    for (int64_t i = 0; i < groups.count; ++i) product *= static_cast<double>(x[begin + groups.element(i)]);
    return static_cast<float>(product);
  }
  MPC_DEVICE float shared(Block& block, const FloatIn& x, const Groups& groups, int64_t begin) const {
    return static_cast<float>(block.reduce(
        groups.count, 1.0, [&](int64_t i) { return static_cast<double>(x[begin + groups.element(i)]); },
        [](double a, double b) { return a * b; }));
  }
};

struct LogSumExpReduction {
  MPC_DEVICE static float finished(float greatest, double sum) {
    return static_cast<float>(static_cast<double>(greatest) + std::log(sum));
  }
  // Nothing, an infinity or NaN decides the result.
  MPC_DEVICE static bool decides(float greatest) { return !(greatest - greatest == 0); }
  MPC_DEVICE float whole(const FloatIn& x, const Groups& groups, int64_t begin) const {
    const float greatest = ExtremumReduction{{true}}.whole(x, groups, begin);
    if (decides(greatest)) return greatest;
    double sum = 0;
    for (int64_t i = 0; i < groups.count; ++i) {
      sum += static_cast<double>(std::exp(x[begin + groups.element(i)] - greatest));
    }
    return finished(greatest, sum);
  }
  MPC_DEVICE float shared(Block& block, const FloatIn& x, const Groups& groups, int64_t begin) const {
    const float greatest = ExtremumReduction{{true}}.shared(block, x, groups, begin);
    if (decides(greatest)) return greatest;
    const double sum = block.sum(groups.count, [&](int64_t i) {
      return static_cast<double>(std::exp(x[begin + groups.element(i)] - greatest));
    });
    return finished(greatest, sum);
  }
};

template <class Reduction>
struct ByThread {
  FloatIn x;
  FloatOut y;
  Groups groups;
  Reduction reduction;
  MPC_DEVICE void operator()(int64_t result) const { y.set(result, reduction.whole(x, groups, groups.begin(result))); }
};

template <class Reduction>
struct ByBlock {
  FloatIn x;
  FloatOut y;
  Groups groups;
  Reduction reduction;
  MPC_DEVICE void operator()(Block& block, int64_t result) const {
    const float value = reduction.shared(block, x, groups, groups.begin(result));
    block.for_each(1, [&](int64_t) { y.set(result, value); });
  }
};

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
    const FloatIn x{launch.inputs[0], in};
    const FloatOut y{launch.outputs[0], out};
    if (by_thread) {
      for_each(launch.stream, groups.results, ByThread<Reduction>{x, y, groups, reduction}, "reduction");
    } else {
      for_each_block(launch.stream, groups.results, ByBlock<Reduction>{x, y, groups, reduction}, "reduction");
    }
  });
}

/// An index with the value it won with.
struct Candidate {
  float value;
  int32_t is_there;
  int64_t index;
};

struct BetterCandidate {
  bool is_max;
  bool takes_last;
  MPC_DEVICE bool beats(float a, float b) const {  // NaN beats everything
    if (b != b) return false;
    if (a != a) return true;
    return is_max ? a > b : a < b;
  }
  MPC_DEVICE Candidate operator()(const Candidate& a, const Candidate& b) const {
    if (a.is_there == 0) return b;
    if (b.is_there == 0) return a;
    if (beats(b.value, a.value)) return b;
    if (beats(a.value, b.value)) return a;
    return (takes_last == (b.index > a.index)) ? b : a;
  }
};

struct ArgExtremum {
  FloatIn x;
  IntegerOut y;
  int64_t length;
  int64_t inner;
  BetterCandidate better;
  MPC_DEVICE void operator()(Block& block, int64_t result) const {
    const int64_t begin = result / inner * length * inner + result % inner;
    const Candidate best = block.reduce(
        length, Candidate{0, 0, 0},
        [&](int64_t i) {
          return Candidate{x[begin + i * inner], 1, i};
        },
        better);
    block.for_each(1, [&](int64_t) { y.set(result, best.index); });
  }
};

/// One thread per line, in order.
struct RunningSum {
  FloatIn x;
  FloatOut y;
  int64_t length;
  int64_t inner;
  bool is_exclusive;
  bool is_reverse;
  MPC_DEVICE void operator()(int64_t line) const {
    const int64_t begin = line / inner * length * inner + line % inner;
    double total = 0;
    for (int64_t step = 0; step < length; ++step) {
      const int64_t at = begin + (is_reverse ? length - 1 - step : step) * inner;
      const double with_this = total + static_cast<double>(x[at]);
      y.set(at, static_cast<float>(is_exclusive ? total : with_this));
      total = with_this;
    }
  }
};

}  // namespace

KernelOrReason reduction(const executor::NodeSpec& node, const MakeOptions&) {
  if (!all_small_floats(node)) return declined("reduction: only f32, f16 and bf16");
  const Groups groups = make_groups(node);
  using Enter = SumRule::Enter;
  using Leave = SumRule::Leave;
  switch (node.op) {
    case OpKind::ReduceSum:
      return make(node, groups, SumReduction{});
    case OpKind::ReduceMean:
      return make(node, groups, SumReduction{{Enter::as_is, Leave::mean}});
    case OpKind::ReduceL1:
      return make(node, groups, SumReduction{{Enter::magnitude, Leave::as_is}});
    case OpKind::ReduceL2:
      return make(node, groups, SumReduction{{Enter::square, Leave::root}});
    case OpKind::ReduceSumSquare:
      return make(node, groups, SumReduction{{Enter::square, Leave::as_is}});
    case OpKind::ReduceLogSum:
      return make(node, groups, SumReduction{{Enter::as_is, Leave::logarithm}});
    case OpKind::ReduceLogSumExp:
      return make(node, groups, LogSumExpReduction{});
    case OpKind::ReduceProd:
      return make(node, groups, ProductReduction{});
    case OpKind::ReduceMax:
      return make(node, groups, ExtremumReduction{{true}});
    case OpKind::ReduceMin:
      return make(node, groups, ExtremumReduction{{false}});
    default:
      return declined("reduction: not one");
  }
}

KernelOrReason arg_extremum(const executor::NodeSpec& node, const MakeOptions&) {
  const DType in = input_dtype(node, 0);
  if (!is_small_float(in)) return declined("ArgMax, ArgMin: only f32, f16 and bf16");
  const Shape& x = node.inputs[0].shape;
  const int axis = static_cast<int>(node.attributes->integer("axis"));
  const int64_t length = x[axis];
  const int64_t inner = x.elements(axis + 1, x.rank());
  const int64_t results = node.outputs[0].shape.elements();
  const DType out = output_dtype(node, 0);
  const BetterCandidate better{node.op == OpKind::ArgMax, node.attributes->flag("select_last_index")};
  return function_kernel("cuda:reduction", [=](const Launch& launch) {
    for_each_block(launch.stream, results,
                   ArgExtremum{{launch.inputs[0], in}, {launch.outputs[0], out}, length, inner, better}, "ArgMax");
  });
}

KernelOrReason cumulative_sum(const executor::NodeSpec& node, const MakeOptions&) {
  if (!is_small_float(input_dtype(node, 0))) return declined("CumSum: only f32, f16 and bf16");
  const Shape& x = node.inputs[0].shape;
  const int axis = static_cast<int>(node.attributes->integer("axis"));
  const int64_t length = x[axis];
  const int64_t inner = x.elements(axis + 1, x.rank());
  const int64_t lines = length == 0 ? 0 : x.elements() / length;
  const DType in = input_dtype(node, 0);
  const DType out = output_dtype(node, 0);
  const bool is_exclusive = node.attributes->flag("exclusive");
  const bool is_reverse = node.attributes->flag("reverse");
  return function_kernel("cuda:running sum", [=](const Launch& launch) {
    for_each(launch.stream, lines,
             RunningSum{{launch.inputs[0], in}, {launch.outputs[0], out}, length, inner, is_exclusive, is_reverse},
             "CumSum");
  });
}

}  // namespace mpc::cuda
