// Reductions. A group is the elements that one result stands for, in row-major order; a reduction is a function of it.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "executor/functors/binary.h"
#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

// The dimensions of a tensor that are reduced, or those that are kept, with their strides in the tensor.
struct SubShape {
  std::vector<int64_t> dims;
  Index strides{};

  void append(int64_t dim, int64_t stride) {
    strides[dims.size()] = stride;
    dims.push_back(dim);
  }
};

// y[k] = f(group k), computed in C.
template <class C, class F>
void reduce(const KernelCall& call, F&& f) {
  const TensorView& x = call.inputs[0];
  const std::vector<int64_t>& axes = call.attributes.integers("axes");
  const Index dense = strides(x.shape);
  SubShape kept;
  SubShape reduced;
  for (int axis = 0; axis < x.shape.rank(); ++axis) {
    SubShape& part = std::ranges::binary_search(axes, axis) ? reduced : kept;
    part.append(x.shape[axis], dense[static_cast<size_t>(axis)]);
  }
  const Shape kept_shape(kept.dims);
  const Shape reduced_shape(reduced.dims);
  const std::vector<C> values = load_all<C>(x);
  std::vector<C> group(static_cast<size_t>(reduced_shape.elements()));
  std::vector<C> results;
  results.reserve(static_cast<size_t>(kept_shape.elements()));
  for_each_index(kept_shape, [&](const Index& k) {
    const int64_t base = offset(k, kept.strides, kept_shape.rank());
    size_t next = 0;
    for_each_index(reduced_shape, [&](const Index& r) {
      group[next++] = values[static_cast<size_t>(base + offset(r, reduced.strides, reduced_shape.rank()))];
    });
    results.push_back(f(std::span<const C>(group)));
  });
  store_all<C>(call.outputs[0], results);
}

// f is called with a span of the compute type of the operand.
template <class F>
void reduce_any(const KernelCall& call, F&& f) {
  with_compute_type(call.inputs[0].dtype, [&](auto tag) { reduce<decltype(tag)>(call, f); });
}

template <class C>
C sum(std::span<const C> group) {
  C total = 0;
  for (const C value : group) total = functors::Add::value(total, value);
  return total;
}

template <class C>
C magnitude(C value) {
  if constexpr (std::is_floating_point_v<C>) return std::fabs(value);
  if constexpr (std::is_unsigned_v<C>) return value;
  return value < 0 ? functors::Sub::value(C{0}, value) : value;
}

// The least or the greatest value of a dtype, in the compute type C.
template <class C>
C extreme(DType dtype, bool is_greatest) {
  if constexpr (std::is_floating_point_v<C>) {
    return is_greatest ? std::numeric_limits<C>::infinity() : -std::numeric_limits<C>::infinity();
  } else {
    if (dtype == DType::boolean) return is_greatest ? 1 : 0;
    const int bits = static_cast<int>(8 * dtype_bytes(dtype)) - (is_signed_integer(dtype) ? 1 : 0);
    const C greatest = static_cast<C>(~uint64_t{0} >> (64 - bits));
    if (is_greatest) return greatest;
    return is_signed_integer(dtype) ? static_cast<C>(-greatest - 1) : C{0};
  }
}

// Is `value` taken instead of `best`? NaN beats everything, and the first NaN stays.
template <class C>
bool beats(C value, C best, bool is_max) {
  if constexpr (std::is_floating_point_v<C>) {
    if (std::isnan(best)) return false;
    if (std::isnan(value)) return true;
  }
  return is_max ? value > best : value < best;
}

void reduce_extremum(const KernelCall& call, bool is_max) {
  const DType dtype = call.inputs[0].dtype;
  reduce_any(call, [&](auto group) {
    using C = std::remove_const_t<typename decltype(group)::element_type>;
    C best = extreme<C>(dtype, !is_max);
    for (const C value : group) {
      if (beats(value, best, is_max)) best = value;
    }
    return best;
  });
}

template <class C>
void arg_extremum(const KernelCall& call, bool is_max) {
  const AxisView view = around_axis(call.inputs[0].shape, call.attributes.integer("axis"));
  const bool is_last = call.attributes.flag("select_last_index");
  const std::vector<C> values = load_all<C>(call.inputs[0]);
  for (int64_t o = 0; o < view.outer; ++o) {
    for (int64_t i = 0; i < view.inner; ++i) {
      const auto at = [&](int64_t a) { return values[static_cast<size_t>((o * view.length + a) * view.inner + i)]; };
      int64_t best = 0;
      for (int64_t a = 1; a < view.length; ++a) {
        // With is_last an equal value (or another NaN) is taken too: neither beats the other.
        if (beats(at(a), at(best), is_max) || (is_last && !beats(at(best), at(a), is_max))) best = a;
      }
      set_integer(call.outputs[0], o * view.inner + i, best);
    }
  }
}

}  // namespace

void ReduceSum(const KernelCall& call) {
  reduce_any(call, [](auto group) { return sum(group); });
}

void ReduceMean(const KernelCall& call) {
  reduce_any(call, [](auto group) {
    using C = std::remove_const_t<typename decltype(group)::element_type>;
    if constexpr (std::is_integral_v<C>) {
      if (group.empty()) fail(OpKind::ReduceMean, "the mean of no integers is asked for");
    }
    return functors::Div::value(sum(group), static_cast<C>(group.size()));
  });
}

void ReduceProd(const KernelCall& call) {
  reduce_any(call, [](auto group) {
    using C = std::remove_const_t<typename decltype(group)::element_type>;
    C product = 1;
    for (const C value : group) product = functors::Mul::value(product, value);
    return product;
  });
}

void ReduceL1(const KernelCall& call) {
  reduce_any(call, [](auto group) {
    using C = std::remove_const_t<typename decltype(group)::element_type>;
    C total = 0;
    for (const C value : group) total = functors::Add::value(total, magnitude(value));
    return total;
  });
}

void ReduceSumSquare(const KernelCall& call) {
  reduce_any(call, [](auto group) {
    using C = std::remove_const_t<typename decltype(group)::element_type>;
    C total = 0;
    for (const C value : group) total = functors::Add::value(total, functors::Mul::value(value, value));
    return total;
  });
}

// Roots and logarithms of integers are computed in double and truncated.
void ReduceL2(const KernelCall& call) {
  reduce<double>(call, [](std::span<const double> group) {
    double total = 0;
    for (const double value : group) total += value * value;
    return std::sqrt(total);
  });
}

void ReduceLogSum(const KernelCall& call) {
  reduce<double>(call, [](std::span<const double> group) { return std::log(sum(group)); });
}

void ReduceLogSumExp(const KernelCall& call) {
  reduce<double>(call, [](std::span<const double> group) {
    double greatest = -std::numeric_limits<double>::infinity();
    for (const double value : group) greatest = functors::Max::value(greatest, value);
    if (!std::isfinite(greatest)) return greatest;  // nothing, an infinity or NaN decides the result
    double total = 0;
    for (const double value : group) total += std::exp(value - greatest);
    return greatest + std::log(total);
  });
}

void ReduceMax(const KernelCall& call) {
  reduce_extremum(call, true);
}
void ReduceMin(const KernelCall& call) {
  reduce_extremum(call, false);
}

void ArgMax(const KernelCall& call) {
  with_compute_type(call.inputs[0].dtype, [&](auto tag) { arg_extremum<decltype(tag)>(call, true); });
}

void ArgMin(const KernelCall& call) {
  with_compute_type(call.inputs[0].dtype, [&](auto tag) { arg_extremum<decltype(tag)>(call, false); });
}

void CumSum(const KernelCall& call) {
  const AxisView view = around_axis(call.inputs[0].shape, call.attributes.integer("axis"));
  const bool is_exclusive = call.attributes.flag("exclusive");
  const bool is_reverse = call.attributes.flag("reverse");
  with_compute_type(call.inputs[0].dtype, [&](auto tag) {
    using C = decltype(tag);
    std::vector<C> values = load_all<C>(call.inputs[0]);
    for (int64_t o = 0; o < view.outer; ++o) {
      for (int64_t i = 0; i < view.inner; ++i) {
        C total = 0;
        for (int64_t step = 0; step < view.length; ++step) {
          const int64_t a = is_reverse ? view.length - 1 - step : step;
          C& value = values[static_cast<size_t>((o * view.length + a) * view.inner + i)];
          const C with_this = functors::Add::value(total, value);
          value = is_exclusive ? total : with_this;
          total = with_this;
        }
      }
    }
    store_all<C>(call.outputs[0], values);
  });
}

}  // namespace mpc::reference
