#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "compiler/base/dtype.h"
#include "compiler/base/shape.h"

namespace mpc {

/// A tensor whose elements are known when compiling. A splat stores one element for any shape, so that a constant fill
/// of millions of elements costs nothing. Copies share their content, which never changes (shared_ptr: literals are
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

  DType dtype() const { return content().dtype; }
  const Shape& shape() const { return content().shape; }
  bool is_splat() const { return content().is_splat; }
  /// Bytes stored: all elements, or one for a splat.
  std::span<const std::byte> stored() const { return content().bytes; }
  /// All elements, expanded.
  std::vector<std::byte> dense() const;
  /// Element `index` as a double, or as an int64_t (floats are truncated).
  double number(int64_t index) const;
  int64_t integer(int64_t index) const;
  /// All elements as int64_t. @pre an integer or bool dtype.
  std::vector<int64_t> to_integers() const;
  bool operator==(const Literal& other) const;

 private:
  struct Content {
    DType dtype = DType::f32;
    Shape shape;
    bool is_splat = false;
    std::vector<std::byte> bytes;
  };
  explicit Literal(Content content) : content_(std::make_shared<const Content>(std::move(content))) {}
  const Content& content() const;
  /// @pre not a default literal
  const std::byte* element(int64_t index) const;

  std::shared_ptr<const Content> content_;  // null: a scalar without bytes
};

/// One element read from / written to memory as a number. i64/u64 values beyond 2^53 lose bits here: use the integer
/// forms.
double read_number(DType dtype, const std::byte* element);
int64_t read_integer(DType dtype, const std::byte* element);
void write_number(DType dtype, std::byte* element, double value);
void write_integer(DType dtype, std::byte* element, int64_t value);

}  // namespace mpc
