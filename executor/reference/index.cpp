// Gather, GatherElements, GatherND, their scatters and OneHot. Elements are moved as bytes; reductions are done in
// double, int64_t or uint64_t (wrapping), one index position after the other.

#include <limits>
#include <type_traits>

#include <fmt/format.h>

#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

// An index made positive. @throws Error(M033) when it is outside [-dim, dim).
int64_t checked_index(OpKind op, int64_t index, int64_t dim) {
  if (index < -dim || index >= dim) fail(op, fmt::format("index {} is out of range for a dimension of {}", index, dim));
  return index < 0 ? index + dim : index;
}

// The indices, checked against the dimension they index.
std::vector<int64_t> checked_indices(OpKind op, const TensorView& indices, int64_t dim) {
  std::vector<int64_t> values = load_integers(indices);
  for (int64_t& value : values) value = checked_index(op, value, dim);
  return values;
}

// For GatherElements and ScatterElements: calls f(position in indices, position in data).
template <class F>
void for_each_by_elements(OpKind op, const KernelCall& call, F&& f) {
  const Shape& data = call.inputs[0].shape;
  const TensorView& indices = call.inputs[1];
  const auto axis = static_cast<size_t>(call.attributes.integer("axis"));
  const std::vector<int64_t> values = checked_indices(op, indices, data[static_cast<int>(axis)]);
  const Index dense = strides(data);
  int64_t at = 0;
  for_each_index(indices.shape, [&](Index index) {
    index[axis] = values[static_cast<size_t>(at)];
    f(at++, offset(index, dense, data.rank()));
  });
}

// For GatherND and ScatterND: calls f(position in the gathered tensor, position in data, elements side by side) for
// every index tuple.
template <class F>
void for_each_by_tuple(OpKind op, const KernelCall& call, int batch_dims, F&& f) {
  const Shape& data = call.inputs[0].shape;
  const Shape& indices = call.inputs[1].shape;
  const int last = indices.rank() - 1;
  const int depth = static_cast<int>(indices[last]);
  const int64_t run = data.elements(batch_dims + depth, data.rank());
  const int64_t tuples = indices.elements(0, last);
  const int64_t tuples_per_batch = indices.elements(batch_dims, last);
  const int64_t batch_elements = data.elements(batch_dims, data.rank());
  const Index dense = strides(data);
  const std::vector<int64_t> values = load_integers(call.inputs[1]);
  for (int64_t tuple = 0; tuple < tuples; ++tuple) {
    int64_t source = tuple / tuples_per_batch * batch_elements;
    for (int i = 0; i < depth; ++i) {
      const int64_t value = values[static_cast<size_t>(tuple * depth + i)];
      source += checked_index(op, value, data[batch_dims + i]) * dense[static_cast<size_t>(batch_dims + i)];
    }
    f(tuple * run, source, run);
  }
}

// a and b combined by a reduction of ScatterElements or ScatterND. Integers wrap.
template <class C>
C combined(const std::string& reduction, C a, C b) {
  if (reduction == "max") return a != a || a > b ? a : b;  // a NaN stays
  if (reduction == "min") return a != a || a < b ? a : b;
  if constexpr (std::is_same_v<C, int64_t>) {
    const auto x = static_cast<uint64_t>(a);
    const auto y = static_cast<uint64_t>(b);
    return static_cast<int64_t>(reduction == "add" ? x + y : x * y);
  } else {
    return reduction == "add" ? a + b : a * b;
  }
}

// The output is the data with the updates combined in; for_each(f) calls f(position in updates, position in data,
// count).
template <class ForEach>
void scatter(const KernelCall& call, ForEach&& for_each) {
  const TensorView& data = call.inputs[0];
  const TensorView& updates = call.inputs[2];
  const TensorView& y = call.outputs[0];
  const std::string& reduction = call.attributes.text("reduction");
  if (reduction == "none") {
    if (data.bytes() > 0) std::memcpy(y.data, data.data, static_cast<size_t>(data.bytes()));
    for_each([&](int64_t from, int64_t to, int64_t count) {
      for (int64_t i = 0; i < count; ++i) copy_element(y, to + i, updates, from + i);
    });
    return;
  }
  with_compute_type(data.dtype, [&](auto tag) {
    using C = decltype(tag);
    std::vector<C> results = load_all<C>(data);
    const std::vector<C> values = load_all<C>(updates);
    for_each([&](int64_t from, int64_t to, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        C& result = results[static_cast<size_t>(to + i)];
        result = combined<C>(reduction, result, values[static_cast<size_t>(from + i)]);
      }
    });
    store_all<C>(y, results);
  });
}

}  // namespace

void Gather(const KernelCall& call) {
  const TensorView& data = call.inputs[0];
  const TensorView& y = call.outputs[0];
  const AxisView view = around_axis(data.shape, call.attributes.integer("axis"));
  const std::vector<int64_t> indices = checked_indices(OpKind::Gather, call.inputs[1], view.length);
  if (y.bytes() == 0) return;
  int64_t to = 0;
  for (int64_t o = 0; o < view.outer; ++o) {
    for (const int64_t index : indices) {
      for (int64_t i = 0; i < view.inner; ++i) copy_element(y, to++, data, (o * view.length + index) * view.inner + i);
    }
  }
}

void GatherGrad(const KernelCall& call) {
  const TensorView& dx = call.outputs[0];
  const AxisView view = around_axis(dx.shape, call.attributes.integer("axis"));
  const std::vector<int64_t> indices = checked_indices(OpKind::GatherGrad, call.inputs[1], view.length);
  const std::vector<double> dy = load_numbers(call.inputs[0]);
  std::vector<double> sums(static_cast<size_t>(dx.shape.elements()));
  size_t from = 0;
  for (int64_t o = 0; from < dy.size(); ++o) {
    for (const int64_t index : indices) {
      for (int64_t i = 0; i < view.inner; ++i)
        sums[static_cast<size_t>((o * view.length + index) * view.inner + i)] += dy[from++];
    }
  }
  store_all(dx, sums);
}

void GatherElements(const KernelCall& call) {
  for_each_by_elements(OpKind::GatherElements, call,
                       [&](int64_t at, int64_t source) { copy_element(call.outputs[0], at, call.inputs[0], source); });
}

void GatherND(const KernelCall& call) {
  const int batch_dims = static_cast<int>(call.attributes.integer("batch_dims"));
  for_each_by_tuple(OpKind::GatherND, call, batch_dims, [&](int64_t at, int64_t source, int64_t count) {
    for (int64_t i = 0; i < count; ++i) copy_element(call.outputs[0], at + i, call.inputs[0], source + i);
  });
}

void ScatterElements(const KernelCall& call) {
  scatter(call, [&](auto&& f) {
    for_each_by_elements(OpKind::ScatterElements, call, [&](int64_t at, int64_t target) { f(at, target, 1); });
  });
}

void ScatterND(const KernelCall& call) {
  scatter(call, [&](auto&& f) { for_each_by_tuple(OpKind::ScatterND, call, 0, f); });
}

void OneHot(const KernelCall& call) {
  const TensorView& values = call.inputs[1];
  const TensorView& y = call.outputs[0];
  const AxisView view = around_axis(y.shape, call.attributes.integer("axis"));
  if (y.bytes() == 0) return;
  std::vector<int64_t> indices = load_integers(call.inputs[0]);
  if (call.inputs[0].dtype == DType::u64) {  // 2^63 and more is out of range, not negative
    for (int64_t& index : indices) index = index < 0 ? std::numeric_limits<int64_t>::max() : index;
  }
  int64_t to = 0;
  for (int64_t o = 0; o < view.outer; ++o) {
    for (int64_t d = 0; d < view.length; ++d) {
      for (int64_t i = 0; i < view.inner; ++i) {
        const int64_t index = indices[static_cast<size_t>(o * view.inner + i)];
        const bool is_on = index == d || (index < 0 && index + view.length == d);
        copy_element(y, to++, values, is_on ? 1 : 0);
      }
    }
  }
}

}  // namespace mpc::reference
