#include "compiler/base/shape.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "compiler/base/checked.h"
#include "compiler/base/error.h"

namespace mpc {

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  MPC_CHECK(dims.size() <= kMaxRank, fmt::format("rank {} is above {}", dims.size(), kMaxRank));
  for (size_t i = 0; i < dims.size(); ++i) {
    MPC_CHECK(dims[i] >= 0, fmt::format("dimension {} is {}", i, dims[i]));
    dims_[i] = dims[i];
  }
}

int64_t Shape::elements() const {
  return elements(0, rank_);
}

int64_t Shape::elements(int from, int to) const {
  int64_t product = 1;
  for (int i = from; i < to; ++i) product *= dims_[static_cast<size_t>(i)];
  return product;
}

std::optional<Shape> checked_shape(std::span<const int64_t> dims, DType dtype) {
  if (dims.size() > kMaxRank) return std::nullopt;
  int64_t bytes = dtype_bytes(dtype);
  for (const int64_t dim : dims) {
    if (dim < 0) return std::nullopt;
    const auto product = checked_mul(bytes, std::max<int64_t>(dim, 1));
    if (!product || *product >= kMaxTensorBytes) return std::nullopt;
    bytes = *product;
  }
  return Shape(dims);
}

int64_t byte_size(const Shape& shape, DType dtype) {
  return shape.elements() * dtype_bytes(dtype);
}

std::string to_string(const Shape& shape) {
  return fmt::format("({})", fmt::join(shape.dims(), ", "));
}

std::string type_text(DType dtype, const Shape& shape) {
  return fmt::format("{}[{}]", dtype_name(dtype), fmt::join(shape.dims(), ","));
}

std::optional<Shape> broadcast(const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  std::array<int64_t, kMaxRank> dims{};
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank());
    const int ib = i - (rank - b.rank());
    const int64_t da = ia < 0 ? 1 : a[ia];
    const int64_t db = ib < 0 ? 1 : b[ib];
    if (da != db && da != 1 && db != 1) return std::nullopt;
    dims[static_cast<size_t>(i)] = da == 1 ? db : da;
  }
  return Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(rank)));
}

std::array<int64_t, kMaxRank> strides(const Shape& shape) {
  std::array<int64_t, kMaxRank> result{};
  int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    result[static_cast<size_t>(i)] = stride;
    stride *= shape[i];
  }
  return result;
}

std::optional<int> normalize_axis(int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) return std::nullopt;
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

}  // namespace mpc
