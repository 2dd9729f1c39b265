#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "compiler/base/literal.h"
#include "executor/kernel.h"

// What the reference kernels share. A kernel computes in one of three types, whatever the dtype of its operands:
//   double    every float dtype
//   int64_t   bool and every integer dtype but u64; results wrap to the dtype when they are stored
//   uint64_t  u64
// so that a kernel template has at most three instantiations. Operands are read and written through load/store.

namespace mpc::reference {

using Index = std::array<int64_t, kMaxRank>;

inline constexpr int64_t kChunk = 512;  // elements converted at a time

/// Elements [begin, begin + out.size()) of a tensor, converted to the compute type C (double, int64_t or uint64_t).
template <class C>
void load(const TensorView& from, int64_t begin, std::span<C> out);
/// Writes elements [begin, begin + values.size()). Doubles are rounded to a float dtype and clamped to an integer one;
/// integers wrap.
template <class C>
void store(const TensorView& to, int64_t begin, std::span<const C> values);
/// Elements [begin, begin + out.size()) of `from` broadcast to `shape`.
template <class C>
void load_broadcast(const TensorView& from, const Shape& shape, int64_t begin, std::span<C> out);

/// All elements of a tensor.
template <class C>
std::vector<C> load_all(const TensorView& from) {
  std::vector<C> values(static_cast<size_t>(from.shape.elements()));
  load<C>(from, 0, values);
  return values;
}
template <class C>
void store_all(const TensorView& to, const std::vector<C>& values) {
  store<C>(to, 0, std::span<const C>(values));
}
inline std::vector<double> load_numbers(const TensorView& from) {
  return load_all<double>(from);
}
inline std::vector<int64_t> load_integers(const TensorView& from) {
  return load_all<int64_t>(from);
}

/// y[i] = f(x[i]) for operand 0 and result 0, computed in C and stored from R. The result may take the bytes of the
/// operand.
template <class C, class R, class F>
void map_elements(const KernelCall& call, F&& f) {
  std::array<C, kChunk> in;
  std::array<R, kChunk> out;
  const int64_t elements = call.outputs[0].shape.elements();
  for (int64_t begin = 0; begin < elements; begin += kChunk) {
    const size_t count = static_cast<size_t>(std::min(kChunk, elements - begin));
    load<C>(call.inputs[0], begin, std::span(in.data(), count));
    for (size_t i = 0; i < count; ++i) out[i] = f(in[i]);
    store<R>(call.outputs[0], begin, std::span<const R>(out.data(), count));
  }
}

/// One element. Slower than load/store of many.
inline double number(const TensorView& from, int64_t i) {
  return read_number(from.dtype, from.data + i * dtype_bytes(from.dtype));
}
inline int64_t integer(const TensorView& from, int64_t i) {
  return read_integer(from.dtype, from.data + i * dtype_bytes(from.dtype));
}
inline void set_number(const TensorView& to, int64_t i, double value) {
  write_number(to.dtype, to.data + i * dtype_bytes(to.dtype), value);
}
inline void set_integer(const TensorView& to, int64_t i, int64_t value) {
  write_integer(to.dtype, to.data + i * dtype_bytes(to.dtype), value);
}

/// Calls f with a value of the compute type of `dtype`: `with_compute_type(dtype, [&](auto c) { using C = decltype(c);
/// ... })`.
template <class F>
decltype(auto) with_compute_type(DType dtype, F&& f) {
  if (is_float(dtype)) return f(double{});
  if (dtype == DType::u64) return f(uint64_t{});
  return f(int64_t{});
}

/// Copies element `from_index` to element `to_index`, whatever the dtype (both tensors have the same one; they may be
/// one).
inline void copy_element(const TensorView& to, int64_t to_index, const TensorView& from, int64_t from_index) {
  const int64_t bytes = dtype_bytes(to.dtype);
  std::memmove(to.data + to_index * bytes, from.data + from_index * bytes, static_cast<size_t>(bytes));
}
/// Sets all elements to zero (all bytes zero, which is zero in every dtype).
inline void fill_zero(const TensorView& to) {
  if (to.bytes() > 0) std::memset(to.data, 0, static_cast<size_t>(to.bytes()));
}

/// The next index of `shape` in row-major order; false after the last one (the index is then all zeros again).
inline bool advance(Index& index, const Shape& shape) {
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    if (++index[static_cast<size_t>(axis)] < shape[axis]) return true;
    index[static_cast<size_t>(axis)] = 0;
  }
  return false;
}
/// Calls f(index) for every index of `shape` in row-major order; not at all when a dimension is zero.
template <class F>
void for_each_index(const Shape& shape, F&& f) {
  if (shape.elements() == 0) return;
  Index index{};
  do f(static_cast<const Index&>(index));
  while (advance(index, shape));
}
/// Position of an index in a tensor with the given strides (in elements).
inline int64_t offset(const Index& index, const Index& strides, int rank) {
  int64_t sum = 0;
  for (size_t axis = 0; axis < static_cast<size_t>(rank); ++axis) sum += index[axis] * strides[axis];
  return sum;
}
/// The index of the element at a row-major position. @pre 0 <= position < shape.elements().
inline Index unravel(int64_t position, const Shape& shape) {
  Index index{};
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    index[static_cast<size_t>(axis)] = position % shape[axis];
    position /= shape[axis];
  }
  return index;
}
/// Strides that read a tensor of shape `from` as one of shape `to`: zero along broadcast dimensions.
/// @pre `from` broadcasts to `to`.
Index broadcast_strides(const Shape& from, const Shape& to);

/// A shape seen as (outer, axis, inner) around one axis: element (o, a, i) is at (o * length + a) * inner + i.
struct AxisView {
  int64_t outer = 1;
  int64_t length = 1;
  int64_t inner = 1;
};
inline AxisView around_axis(const Shape& shape, int64_t axis) {
  const int at = static_cast<int>(axis);
  return {shape.elements(0, at), shape[at], shape.elements(at + 1, shape.rank())};
}

/// Ends the call because the content of an operand is out of range. @throws Error(M033) naming the op.
[[noreturn]] void fail(OpKind op, const std::string& what_happened);

}  // namespace mpc::reference
