#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "compiler/base/dtype.h"
#include "compiler/base/shape.h"

namespace mpc {

/// A tensor whose elements are known when compiling. A splat stores one element for any shape, so that a constant fill
/// of millions of elements costs nothing. Bytes are shared between copies and never change (shared_ptr: literals are
/// copied with graphs and plans).
class Literal {
 public:
  Literal() = default;
  /// @pre bytes.size() == byte_size(shape, dtype).
  Literal(DType dtype, Shape shape, std::vector<std::byte> bytes);
  /// @pre element.size() == dtype_bytes(dtype).
  static Literal splat(DType dtype, Shape shape, std::span<const std::byte> element);
  /// Conversions of numbers (rounded to the dtype as a C++ cast does; f16/bf16 to nearest even).
  static Literal scalar(DType dtype, double value);
  static Literal splat_number(DType dtype, Shape shape, double value);
  static Literal integers(const std::vector<int64_t>& values);  // i64, rank 1

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  bool is_splat() const { return is_splat_; }
  /// Bytes stored: all elements, or one for a splat.
  std::span<const std::byte> stored() const;
  /// All elements, expanded.
  std::vector<std::byte> dense() const;
  /// Element `index` as a double, or as an int64_t (floats are truncated).
  double number(int64_t index) const;
  int64_t integer(int64_t index) const;
  /// All elements as int64_t. @pre an integer or bool dtype.
  std::vector<int64_t> to_integers() const;
  bool operator==(const Literal& other) const;

 private:
  DType dtype_ = DType::f32;
  Shape shape_;
  bool is_splat_ = false;
  std::shared_ptr<const std::vector<std::byte>> bytes_;
};

/// One element read from / written to memory as a number. i64/u64 values beyond 2^53 lose bits here: use the integer
/// forms.
double read_number(DType dtype, const std::byte* element);
int64_t read_integer(DType dtype, const std::byte* element);
void write_number(DType dtype, std::byte* element, double value);
void write_integer(DType dtype, std::byte* element, int64_t value);

}  // namespace mpc
