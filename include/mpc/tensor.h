#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "mpc/namespace.h"

namespace mpc::v1 {

/// Element types of tensors.
enum class DType : uint8_t { f32, f64, f16, bf16, i8, i16, i32, i64, u8, u16, u32, u64, boolean };

/// Bytes of one element.
int64_t element_bytes(DType dtype);
/// "f32", "i64", "bool".
std::string_view to_string(DType dtype);
/// "(8, 16)"; "()" for a scalar.
std::string shape_text(const std::vector<int64_t>& shape);

/// The dtype of a C++ arithmetic type.
template <class T>
constexpr DType dtype_of() {
  static_assert(std::is_arithmetic_v<T>, "a tensor's elements are numbers");
  if constexpr (std::is_same_v<T, bool>) return DType::boolean;
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  constexpr bool is_signed = std::is_signed_v<T>;
  if constexpr (sizeof(T) == 1) return is_signed ? DType::i8 : DType::u8;
  if constexpr (sizeof(T) == 2) return is_signed ? DType::i16 : DType::u16;
  if constexpr (sizeof(T) == 4) return is_signed ? DType::i32 : DType::u32;
  return is_signed ? DType::i64 : DType::u64;
}

/// A dense tensor in host memory: little-endian, row-major, outermost dimension first.
struct Tensor {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;

  /// @throws Error(M004) when a dimension is negative, the tensor is too large or the count of values differs from the
  /// shape's.
  static Tensor zeros(DType dtype, std::vector<int64_t> shape);
  template <class T>
  static Tensor from(std::vector<int64_t> shape, std::span<const T> values) {
    return from_bytes(dtype_of<T>(), std::move(shape), std::as_bytes(values));
  }
  template <class T>
  static Tensor from(std::vector<int64_t> shape, const std::vector<T>& values) {
    return from(std::move(shape), std::span<const T>(values));
  }
  static Tensor from_bytes(DType dtype, std::vector<int64_t> shape, std::span<const std::byte> bytes);

  /// Product of the dimensions.
  int64_t elements() const;
  /// Bytes of one index of dimension 0. @throws Error(M004) for a scalar.
  int64_t row_bytes() const;
  /// The elements, copied. @throws Error(M004) when T is not the tensor's dtype.
  template <class T>
  std::vector<T> as() const {
    require_dtype(dtype_of<T>());
    std::vector<T> values(bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  /// Element `index` (row-major) as a double, whatever the dtype. @pre 0 <= index < elements().
  double number(int64_t index) const;
  /// The same elements under another shape. @throws Error(M004) when the element counts differ.
  Tensor reshaped(std::vector<int64_t> shape) const;
  /// The elements as numbers of another dtype, rounded as a C++ cast does.
  Tensor converted(DType dtype) const;

  bool operator==(const Tensor&) const = default;

 private:
  void require_dtype(DType expected) const;
};

/// Reads a tensor file: NumPy .npy, a serialized ONNX TensorProto (.pb), or IDX as MNIST uses it; told apart by
/// content.
/// @throws Error(M010, M065) and Error(M041, M046) for what mpc has no tensors of.
Tensor load_tensor(const std::string& path);
/// Reads the header of a safetensors file, strictly. @return how many tensors it holds. @throws Error(M010, M065,
/// M051).
size_t count_safetensors(const std::string& path);
/// Writes a .npy file; it appears whole or not at all. @throws Error(M011, M012).
void save_tensor(const std::string& path, const Tensor& tensor);

/// Deterministic values: floats uniform in [-1, 1), integers uniform in [0, bound). The same on every machine; depends
/// only on dtype, shape, seed and stream.
Tensor random_tensor(DType dtype, const std::vector<int64_t>& shape, uint64_t seed, std::string_view stream,
                     int64_t bound = 2);

/// How two tensors differ.
struct Difference {
  bool is_equal = true;        // within the tolerances everywhere; NaN equals NaN
  double max_abs_error = 0;    // over elements that are finite in both
  double max_rel_error = 0;    // |a - e| / |e| over elements with e != 0
  int64_t mismatches = 0;      // elements outside the tolerances
  std::string first_mismatch;  // "[3, 1]: 0.25, expected 0.5", or what differs about type and shape
};
/// Compares element by element: |actual - expected| <= atol + rtol * |expected|; integers and bools exactly; dtype and
/// shape must be equal.
Difference compare(const Tensor& actual, const Tensor& expected, double rtol, double atol);

/// Order in which the rows of a data set are visited in one epoch: a permutation of 0 .. rows - 1 that depends only on
/// the seed and the epoch (Fisher-Yates over a counter-based generator).
std::vector<int64_t> shuffled_rows(int64_t rows, uint64_t seed, int64_t epoch);
/// The given rows of `tensor` (indices of dimension 0), in order. @throws Error(M004) for a row that is not there.
Tensor take_rows(const Tensor& tensor, std::span<const int64_t> rows);

}  // namespace mpc::v1
