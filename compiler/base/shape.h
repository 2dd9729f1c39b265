#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compiler/base/dtype.h"

namespace mpc {

inline constexpr int kMaxRank = 8;

/// The static dimensions of a tensor, row-major, outermost first. Every dimension is >= 0 and rank <= kMaxRank.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  /// @throws Error(M700) on a rank above kMaxRank or a negative dimension: untrusted dims go through checked_shape.
  explicit Shape(std::span<const int64_t> dims);
  explicit Shape(const std::vector<int64_t>& dims) : Shape(std::span<const int64_t>(dims)) {}

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return dims_[static_cast<size_t>(axis)]; }
  void set(int axis, int64_t dim) { dims_[static_cast<size_t>(axis)] = dim; }
  std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }
  std::vector<int64_t> to_vector() const { return {dims().begin(), dims().end()}; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + rank_; }
  bool operator==(const Shape& other) const = default;

  /// Product of all dimensions (1 for a scalar). @pre the shape passed checked_shape or came from shapes that did.
  int64_t elements() const;
  /// Product of the dimensions in [from, to).
  int64_t elements(int from, int to) const;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

/// The shape, or nothing when the rank is above kMaxRank, a dimension is negative, or its bytes reach kMaxTensorBytes.
/// The product is taken over max(dim, 1), so that a zero dimension does not hide an overflow.
std::optional<Shape> checked_shape(std::span<const int64_t> dims, DType dtype);
/// Elements times bytes per element. @pre as for Shape::elements.
int64_t byte_size(const Shape& shape, DType dtype);
/// "(8, 16)"; "()" for a scalar.
std::string to_string(const Shape& shape);
/// "f32[8,16]", the form of the text IR.
std::string type_text(DType dtype, const Shape& shape);

/// The result of numpy-style broadcasting, or nothing when the shapes do not agree.
std::optional<Shape> broadcast(const Shape& a, const Shape& b);
/// Row-major strides in elements.
std::array<int64_t, kMaxRank> strides(const Shape& shape);
/// `axis` counted from the front, or nothing when it is outside [-rank, rank).
std::optional<int> normalize_axis(int64_t axis, int rank);

}  // namespace mpc
