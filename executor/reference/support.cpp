#include "executor/reference/support.h"

#include <algorithm>
#include <type_traits>

#include "compiler/base/error.h"
#include "compiler/base/half.h"

namespace mpc::reference {
namespace {

// Calls f with a value of the type that stores an element of `dtype`. A bool is stored as one byte.
template <class F>
void with_storage_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    case DType::f16:
      return f(f16{});
    case DType::bf16:
      return f(bf16{});
    case DType::i8:
      return f(int8_t{});
    case DType::i16:
      return f(int16_t{});
    case DType::i32:
      return f(int32_t{});
    case DType::i64:
      return f(int64_t{});
    case DType::u8:
      return f(uint8_t{});
    case DType::u16:
      return f(uint16_t{});
    case DType::u32:
      return f(uint32_t{});
    case DType::u64:
      return f(uint64_t{});
    case DType::boolean:
      return f(bool{});
  }
}

template <class T>
inline constexpr bool kIsHalf = std::is_same_v<T, f16> || std::is_same_v<T, bf16>;

// Pairs of a float and an integer type are converted by read_number and read_integer, which clamp; the others have a
// cast that is defined for every value.
template <class C, class T>
inline constexpr bool kIsPlainCast = std::is_same_v<C, double> == (std::is_floating_point_v<T> || kIsHalf<T>);

template <class C, class T>
C from_storage(DType dtype, const T& element) {
  if constexpr (kIsHalf<T> && std::is_same_v<C, double>) {
    return to_float(element);
  } else if constexpr (std::is_same_v<T, bool>) {
    return static_cast<C>(read_integer(dtype, reinterpret_cast<const std::byte*>(&element)));
  } else if constexpr (kIsPlainCast<C, T>) {
    return static_cast<C>(element);
  } else if constexpr (std::is_same_v<C, double>) {
    return read_number(dtype, reinterpret_cast<const std::byte*>(&element));
  } else {
    return static_cast<C>(read_integer(dtype, reinterpret_cast<const std::byte*>(&element)));
  }
}

template <class C, class T>
void to_storage(DType dtype, T& element, C value) {
  if constexpr (kIsPlainCast<C, T> && !kIsHalf<T> && !std::is_same_v<T, bool>) {
    element = static_cast<T>(value);
  } else if constexpr (std::is_same_v<C, double>) {
    write_number(dtype, reinterpret_cast<std::byte*>(&element), value);
  } else {
    write_integer(dtype, reinterpret_cast<std::byte*>(&element), static_cast<int64_t>(value));
  }
}

}  // namespace

template <class C>
void load(const TensorView& from, int64_t begin, std::span<C> out) {
  with_storage_type(from.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* elements = from.as<const T>() + begin;
    for (size_t i = 0; i < out.size(); ++i) out[i] = from_storage<C, T>(from.dtype, elements[i]);
  });
}

template <class C>
void store(const TensorView& to, int64_t begin, std::span<const C> values) {
  with_storage_type(to.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* elements = to.as<T>() + begin;
    for (size_t i = 0; i < values.size(); ++i) to_storage<C, T>(to.dtype, elements[i], values[i]);
  });
}

template <class C>
void load_broadcast(const TensorView& from, const Shape& shape, int64_t begin, std::span<C> out) {
  if (out.empty()) return;
  if (from.shape == shape) return load<C>(from, begin, out);
  const Index steps = broadcast_strides(from.shape, shape);
  Index index = unravel(begin, shape);
  with_storage_type(from.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* elements = from.as<const T>();
    for (C& value : out) {
      value = from_storage<C, T>(from.dtype, elements[offset(index, steps, shape.rank())]);
      advance(index, shape);
    }
  });
}

template void load<double>(const TensorView&, int64_t, std::span<double>);
template void load<int64_t>(const TensorView&, int64_t, std::span<int64_t>);
template void load<uint64_t>(const TensorView&, int64_t, std::span<uint64_t>);
template void store<double>(const TensorView&, int64_t, std::span<const double>);
template void store<int64_t>(const TensorView&, int64_t, std::span<const int64_t>);
template void store<uint64_t>(const TensorView&, int64_t, std::span<const uint64_t>);
template void load_broadcast<double>(const TensorView&, const Shape&, int64_t, std::span<double>);
template void load_broadcast<int64_t>(const TensorView&, const Shape&, int64_t, std::span<int64_t>);
template void load_broadcast<uint64_t>(const TensorView&, const Shape&, int64_t, std::span<uint64_t>);

Index broadcast_strides(const Shape& from, const Shape& to) {
  const Index dense = strides(from);
  Index out{};
  const int extra = to.rank() - from.rank();
  for (int axis = 0; axis < from.rank(); ++axis) {
    out[static_cast<size_t>(axis + extra)] = from[axis] == 1 ? 0 : dense[static_cast<size_t>(axis)];
  }
  return out;
}

void fail(OpKind op, const std::string& what_happened) {
  throw Error(ErrorId::M033, std::string(op_name(op)), what_happened);
}

}  // namespace mpc::reference
