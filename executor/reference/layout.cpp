// Reshape, Transpose, Concat, Split, Expand, Tile, Trilu: bytes are moved as they are, for every dtype.

#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

// Copies `count` elements that lie side by side.
void copy_elements(const TensorView& to, int64_t to_index, const TensorView& from, int64_t from_index, int64_t count) {
  if (count == 0) return;
  const int64_t bytes = dtype_bytes(to.dtype);
  std::memmove(to.data + to_index * bytes, from.data + from_index * bytes, static_cast<size_t>(count * bytes));
}

}  // namespace

// The output may be the input's own bytes.
void Reshape(const KernelCall& call) {
  copy_elements(call.outputs[0], 0, call.inputs[0], 0, call.inputs[0].shape.elements());
}

void Transpose(const KernelCall& call) {
  const TensorView& x = call.inputs[0];
  const TensorView& y = call.outputs[0];
  const auto& perm = call.attributes.integers("perm");
  const Index dense = strides(x.shape);
  Index steps{};  // of x along the axes of y
  for (size_t i = 0; i < perm.size(); ++i) steps[i] = dense[static_cast<size_t>(perm[i])];
  int64_t to = 0;
  for_each_index(y.shape, [&](const Index& index) { copy_element(y, to++, x, offset(index, steps, y.shape.rank())); });
}

void Concat(const KernelCall& call) {
  const TensorView& y = call.outputs[0];
  const int64_t axis = call.attributes.integer("axis");
  const AxisView whole = around_axis(y.shape, axis);
  int64_t start = 0;  // along the axis
  for (const TensorView& x : call.inputs) {
    const AxisView part = around_axis(x.shape, axis);
    const int64_t run = part.length * part.inner;
    for (int64_t o = 0; run > 0 && o < part.outer; ++o)
      copy_elements(y, (o * whole.length + start) * whole.inner, x, o * run, run);
    start += part.length;
  }
}

void Split(const KernelCall& call) {
  const int64_t axis = call.attributes.integer("axis");
  const auto& split = call.attributes.integers("split");
  size_t next = 0;
  for (size_t k = 0; k < call.inputs.size(); ++k) {
    const TensorView& x = call.inputs[k];
    const size_t parts =
        call.attributes.has("parts") ? static_cast<size_t>(call.attributes.integers("parts")[k]) : split.size();
    const AxisView whole = around_axis(x.shape, axis);
    int64_t start = 0;  // along the axis
    for (const size_t end = next + parts; next < end; ++next) {
      const int64_t run = split[next] * whole.inner;
      if (call.has_output(next) && run > 0) {
        for (int64_t o = 0; o < whole.outer; ++o) {
          copy_elements(call.outputs[next], o * run, x, (o * whole.length + start) * whole.inner, run);
        }
      }
      start += split[next];
    }
  }
}

void Expand(const KernelCall& call) {
  const TensorView& x = call.inputs[0];
  const TensorView& y = call.outputs[0];
  const Index steps = broadcast_strides(x.shape, y.shape);
  int64_t to = 0;
  for_each_index(y.shape, [&](const Index& index) { copy_element(y, to++, x, offset(index, steps, y.shape.rank())); });
}

void Tile(const KernelCall& call) {
  const TensorView& x = call.inputs[0];
  const TensorView& y = call.outputs[0];
  const int rank = x.shape.rank();
  const Index dense = strides(x.shape);
  int64_t to = 0;
  for_each_index(y.shape, [&](const Index& index) {
    Index source{};
    for (int axis = 0; axis < rank; ++axis)
      source[static_cast<size_t>(axis)] = index[static_cast<size_t>(axis)] % x.shape[axis];
    copy_element(y, to++, x, offset(source, dense, rank));
  });
}

void Trilu(const KernelCall& call) {
  const TensorView& x = call.inputs[0];
  const TensorView& y = call.outputs[0];
  const bool upper = call.attributes.flag("upper");
  const int64_t k = call.attributes.integer("k");
  const auto column = static_cast<size_t>(x.shape.rank() - 1);
  fill_zero(y);
  int64_t at = 0;
  for_each_index(x.shape, [&](const Index& index) {
    const int64_t diagonal = index[column] - index[column - 1];
    if (upper ? diagonal >= k : diagonal <= k) copy_element(y, at, x, at);
    ++at;
  });
}

}  // namespace mpc::reference
