#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "compiler/base/dtype.h"
#include "compiler/base/half.h"
#include "compiler/base/shape.h"
#include "executor/cuda/launch.h"

// Tensors as kernel bodies see them. The dtype is looked at per element: all threads take the same branch, and the code
// stays one kernel per function instead of one per function and type.

namespace mpc::cuda {

/// f32, f16 and bf16: what kernels compute in f32.
MPC_HD constexpr bool is_small_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

/// Integers and bool.
inline bool is_whole(DType dtype) {
  return is_integer(dtype) || dtype == DType::boolean;
}

/// Elements of a float tensor, read as f32.
struct FloatIn {
  const void* data = nullptr;
  DType dtype = DType::f32;

  MPC_DEVICE float operator[](int64_t i) const {
    if (dtype == DType::f32) return static_cast<const float*>(data)[i];
    if (dtype == DType::bf16) return to_float(static_cast<const bf16*>(data)[i]);
    return to_float(static_cast<const f16*>(data)[i]);
  }
};

/// Elements of a float tensor, rounded from f32.
struct FloatOut {
  void* data = nullptr;
  DType dtype = DType::f32;

  MPC_DEVICE void set(int64_t i, float value) const {
    if (dtype == DType::f32) {
      static_cast<float*>(data)[i] = value;
    } else if (dtype == DType::bf16) {
      static_cast<bf16*>(data)[i] = to_bf16(value);
    } else {
      static_cast<f16*>(data)[i] = to_f16(value);
    }
  }
};

/// Elements of an integer or bool tensor.
struct IntegerIn {
  const void* data = nullptr;
  DType dtype = DType::i64;

  MPC_DEVICE int64_t operator[](int64_t i) const {
    switch (dtype) {
      case DType::i64:
      case DType::u64:
        return static_cast<const int64_t*>(data)[i];
      case DType::i32:
        return static_cast<const int32_t*>(data)[i];
      case DType::u32:
        return static_cast<const uint32_t*>(data)[i];
      case DType::i16:
        return static_cast<const int16_t*>(data)[i];
      case DType::u16:
        return static_cast<const uint16_t*>(data)[i];
      case DType::i8:
        return static_cast<const int8_t*>(data)[i];
      default:
        return static_cast<const uint8_t*>(data)[i];
    }
  }
};

/// Elements of an integer or bool tensor; values wrap to the type, bool is "not 0".
struct IntegerOut {
  void* data = nullptr;
  DType dtype = DType::i64;

  MPC_DEVICE void set(int64_t i, int64_t value) const {
    switch (dtype) {
      case DType::i64:
      case DType::u64:
        static_cast<int64_t*>(data)[i] = value;
        break;
      case DType::i32:
      case DType::u32:
        static_cast<uint32_t*>(data)[i] = static_cast<uint32_t>(value);
        break;
      case DType::i16:
      case DType::u16:
        static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(value);
        break;
      case DType::boolean:
        static_cast<uint8_t*>(data)[i] = value != 0 ? 1 : 0;
        break;
      default:
        static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(value);
        break;
    }
  }
};

/// Elements of an integer tensor as u64: those of u64 as they are, others modulo 2^64.
struct UnsignedIn {
  const void* data = nullptr;
  DType dtype = DType::u64;
  MPC_DEVICE uint64_t operator[](int64_t i) const { return static_cast<uint64_t>(IntegerIn{data, dtype}[i]); }
};
struct UnsignedOut {
  void* data = nullptr;
  DType dtype = DType::u64;
  MPC_DEVICE void set(int64_t i, uint64_t value) const { IntegerOut{data, dtype}.set(i, static_cast<int64_t>(value)); }
};

/// Elements of a tensor of any type, read as f64.
struct DoubleIn {
  const void* data = nullptr;
  DType dtype = DType::f64;

  MPC_DEVICE double operator[](int64_t i) const {
    if (dtype == DType::f64) return static_cast<const double*>(data)[i];
    if (is_small_float(dtype)) return static_cast<double>(FloatIn{data, dtype}[i]);
    if (dtype == DType::u64) return static_cast<double>(static_cast<const uint64_t*>(data)[i]);
    return static_cast<double>(IntegerIn{data, dtype}[i]);
  }
};

/// The f32 that rounds to the same f16 or bf16 as `value` itself does: rounded to odd, so no bit is forgotten.
MPC_DEVICE inline float narrowed(double value) {
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || value != value) return nearest;
  uint32_t bits = float_bits(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) --bits;
  return float_of_bits(bits | 1u);
}

/// A number as an element of an integer type or bool: truncated and clamped to its range, NaN is 0; bool is "not 0".
MPC_DEVICE inline int64_t clamped_integer(double value, DType dtype) {
  if (dtype == DType::boolean) return value != 0 ? 1 : 0;
  if (value != value) return 0;
  int bits = 64;
  bool is_signed = true;
  switch (dtype) {
    case DType::i8:
      bits = 8;
      break;
    case DType::i16:
      bits = 16;
      break;
    case DType::i32:
      bits = 32;
      break;
    case DType::u8:
      bits = 8;
      is_signed = false;
      break;
    case DType::u16:
      bits = 16;
      is_signed = false;
      break;
    case DType::u32:
      bits = 32;
      is_signed = false;
      break;
    case DType::u64:
      is_signed = false;
      break;
    default:
      break;
  }
  // The limits are powers of two (or 0), so what lies strictly between them has a defined cast.
  const int exponent = is_signed ? bits - 1 : bits;
  const uint64_t greatest = ~uint64_t{0} >> (64 - exponent);
  const double end = 2.0 * static_cast<double>(uint64_t{1} << (exponent - 1));
  if (value <= (is_signed ? -end : 0.0)) return is_signed ? -static_cast<int64_t>(greatest) - 1 : 0;
  if (value >= end) return static_cast<int64_t>(greatest);
  return is_signed ? static_cast<int64_t>(value) : static_cast<int64_t>(static_cast<uint64_t>(value));
}

/// Elements of a tensor of any type, rounded from f64.
struct DoubleOut {
  void* data = nullptr;
  DType dtype = DType::f64;

  MPC_DEVICE void set(int64_t i, double value) const {
    if (dtype == DType::f64) {
      static_cast<double*>(data)[i] = value;
    } else if (is_small_float(dtype)) {
      FloatOut{data, dtype}.set(i, dtype == DType::f32 ? static_cast<float>(value) : narrowed(value));
    } else {
      IntegerOut{data, dtype}.set(i, clamped_integer(value, dtype));
    }
  }
};

/// How operands are read and results written by a kernel that computes in C.
///   float     f32, f16, bf16            double    f64, or any mixture with it
///   int64_t   integers but u64, bool    uint64_t  u64
template <class C>
struct Access;
template <>
struct Access<float> {
  using In = FloatIn;
  using Out = FloatOut;
};
template <>
struct Access<double> {
  using In = DoubleIn;
  using Out = DoubleOut;
};
template <>
struct Access<int64_t> {
  using In = IntegerIn;
  using Out = IntegerOut;
};
template <>
struct Access<uint64_t> {
  using In = UnsignedIn;
  using Out = UnsignedOut;
};
template <class C>
using In = typename Access<C>::In;
template <class C>
using Out = typename Access<C>::Out;

/// What sums and products of T are kept in: f64 for floats; integers wrap.
template <class T>
using Total = std::conditional_t<std::is_integral_v<T>, T, double>;

/// One element moved as it is. @pre bytes is 1, 2, 4 or 8, and both are aligned to it.
MPC_DEVICE inline void copy_element(void* to, int64_t to_index, const void* from, int64_t from_index, int bytes) {
  switch (bytes) {
    case 8:
      static_cast<uint64_t*>(to)[to_index] = static_cast<const uint64_t*>(from)[from_index];
      break;
    case 4:
      static_cast<uint32_t*>(to)[to_index] = static_cast<const uint32_t*>(from)[from_index];
      break;
    case 2:
      static_cast<uint16_t*>(to)[to_index] = static_cast<const uint16_t*>(from)[from_index];
      break;
    default:
      static_cast<uint8_t*>(to)[to_index] = static_cast<const uint8_t*>(from)[from_index];
      break;
  }
}

/// The positions of several tensors at one element of a common index space, row-major. Dimensions of one element are
/// left out, and neighbours along which all tensors go alike are one.
template <int kTensors>
struct Walk {
  static constexpr int64_t kSmall = 0x7FFFFFFF;
  int rank = 0;
  int64_t count[kMaxRank] = {};
  int64_t step[kTensors][kMaxRank] = {};
  int64_t begin[kTensors] = {};

  struct Positions {
    int64_t at[kTensors];
  };
  MPC_DEVICE Positions positions(int64_t i) const {
    Positions result;
    for (int t = 0; t < kTensors; ++t) result.at[t] = begin[t];
    for (int d = rank - 1; d > 0; --d) {
      int64_t index;
      if (i <= kSmall && count[d] <= kSmall) {  // 32-bit division is several times faster
        const uint32_t small = static_cast<uint32_t>(i);
        const uint32_t size = static_cast<uint32_t>(count[d]);
        const uint32_t quotient = small / size;
        index = small - quotient * size;
        i = quotient;
      } else {
        index = i % count[d];
        i /= count[d];
      }
      for (int t = 0; t < kTensors; ++t) result.at[t] += index * step[t][d];
    }
    for (int t = 0; t < kTensors; ++t) result.at[t] += i * step[t][0];
    return result;
  }
};

using Steps = std::array<int64_t, kMaxRank>;

/// The walk over `shape` with the given steps (in elements; 0 repeats).
template <int kTensors>
Walk<kTensors> make_walk(const Shape& shape, const std::array<Steps, kTensors>& steps,
                         const std::array<int64_t, kTensors>& begins = {}) {
  Walk<kTensors> walk;
  for (int t = 0; t < kTensors; ++t) walk.begin[t] = begins[static_cast<size_t>(t)];
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (shape[axis] == 1) continue;
    bool merges = walk.rank > 0;
    for (int t = 0; t < kTensors && merges; ++t) {
      merges = walk.step[t][walk.rank - 1] == steps[static_cast<size_t>(t)][static_cast<size_t>(axis)] * shape[axis];
    }
    const int d = merges ? walk.rank - 1 : walk.rank++;
    walk.count[d] = merges ? walk.count[d] * shape[axis] : shape[axis];
    for (int t = 0; t < kTensors; ++t) walk.step[t][d] = steps[static_cast<size_t>(t)][static_cast<size_t>(axis)];
  }
  return walk;
}

/// Steps that read a tensor of shape `from` as one of shape `to`. @pre `from` broadcasts to `to`.
inline Steps broadcast_steps(const Shape& from, const Shape& to) {
  const Steps dense = strides(from);
  Steps steps{};
  for (int axis = 0; axis < from.rank(); ++axis) {
    if (from[axis] > 1) steps[static_cast<size_t>(axis + to.rank() - from.rank())] = dense[static_cast<size_t>(axis)];
  }
  return steps;
}

/// Reports what a kernel cannot compute (the first report of a step stays). An index outside of [-bound, bound) becomes
/// 0, so that nothing is read or written out of range; negative indices count from the end.
struct Faults {
  mpc_cuda_step* step = nullptr;
  int32_t tag = 0;

  MPC_DEVICE void report(int64_t value, int64_t bound, int32_t kind = MPC_CUDA_FAULT_INDEX) const {
    if (!team::puts(&step->fault, MPC_CUDA_FAULT_NONE, kind)) return;
    step->fault_tag = tag;
    step->fault_value = value;
    step->fault_bound = bound;
  }
  MPC_DEVICE int64_t checked(int64_t index, int64_t bound) const {
    if (index >= -bound && index < bound) return index < 0 ? index + bound : index;
    report(index, bound);
    return 0;
  }
};

inline Faults faults_of(const Launch& launch) {
  return {launch.step, launch.tag};
}

inline bool has_input(const executor::NodeSpec& node, size_t i) {
  return i < node.inputs.size() && node.inputs[i].is_present;
}
inline bool has_output(const executor::NodeSpec& node, size_t i) {
  return i < node.outputs.size() && node.outputs[i].is_present;
}

/// Are all present operands f32, f16 or bf16?
inline bool all_small_floats(const executor::NodeSpec& node) {
  for (const auto* operands : {&node.inputs, &node.outputs}) {
    for (const auto& operand : *operands) {
      if (operand.is_present && !is_small_float(operand.dtype)) return false;
    }
  }
  return true;
}

/// The first dtype of the node's present operands that is no float, if any.
inline std::optional<DType> first_not_float(const executor::NodeSpec& node) {
  for (const auto* operands : {&node.inputs, &node.outputs}) {
    for (const auto& operand : *operands) {
      if (operand.is_present && !is_float(operand.dtype)) return operand.dtype;
    }
  }
  return std::nullopt;
}

/// f(float{}), or f(double{}) when an operand is f64.
template <class F>
auto with_float_type(const executor::NodeSpec& node, F&& f) {
  for (const auto* operands : {&node.inputs, &node.outputs}) {
    for (const auto& operand : *operands) {
      if (operand.is_present && operand.dtype == DType::f64) return f(double{});
    }
  }
  return f(float{});
}

/// f(C{}) with the type that operands of `dtype` are computed in (see Access).
template <class F>
auto with_compute_type(DType dtype, F&& f) {
  if (is_small_float(dtype)) return f(float{});
  if (dtype == DType::f64) return f(double{});
  if (dtype == DType::u64) return f(uint64_t{});
  return f(int64_t{});
}

/// The dtype of operand i; f32 when it is absent. What kernels keep instead of the node, which does not outlive its
/// factory.
inline DType input_dtype(const executor::NodeSpec& node, size_t i) {
  return has_input(node, i) ? node.inputs[i].dtype : DType::f32;
}
inline DType output_dtype(const executor::NodeSpec& node, size_t i) {
  return has_output(node, i) ? node.outputs[i].dtype : DType::f32;
}

}  // namespace mpc::cuda
