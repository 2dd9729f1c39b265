#include "executor/made_weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "executor/rounded_weights.h"

namespace mpc {
namespace {

using Bytes = std::vector<std::byte>;

/// Writes `from` with its dimensions in another order, in rows of the last one.
void transpose(std::span<const std::byte> from, const Shape& shape, const std::vector<int64_t>& perm, size_t width,
               std::span<std::byte> to) {
  const Shape result = permuted(shape, perm);
  const int rank = result.rank();
  const std::array<int64_t, kMaxRank> of_source = strides(shape);
  std::array<size_t, kMaxRank> step{};  // bytes in `from` to the next place along a dimension of the result
  for (int i = 0; i < rank; ++i)
    step[static_cast<size_t>(i)] =
        static_cast<size_t>(of_source[static_cast<size_t>(perm[static_cast<size_t>(i)])]) * width;
  const auto row = static_cast<size_t>(result[rank - 1]);
  const size_t row_step = step[static_cast<size_t>(rank) - 1];
  std::array<int64_t, kMaxRank> at{};
  size_t begin = 0;
  for (size_t written = 0; written < to.size();) {
    for (size_t i = 0; i < row; ++i, written += width) std::memcpy(&to[written], &from[begin + i * row_step], width);
    for (int i = rank - 1; i-- > 0;) {  // the next row
      const auto axis = static_cast<size_t>(i);
      begin += step[axis];
      if (++at[axis] < result[i]) break;
      begin -= static_cast<size_t>(result[i]) * step[axis];
      at[axis] = 0;
    }
  }
}

Bytes transposed(Bytes content, const Shape& shape, const std::vector<int64_t>& perm, DType dtype) {
  if (perm.empty() || content.empty()) return content;
  Bytes result(content.size());
  transpose(content, shape, perm, static_cast<size_t>(dtype_bytes(dtype)), result);
  return result;
}

std::vector<int64_t> inverse(const std::vector<int64_t>& perm) {
  std::vector<int64_t> result(perm.size());
  for (size_t i = 0; i < perm.size(); ++i) result[static_cast<size_t>(perm[i])] = static_cast<int64_t>(i);
  return result;
}

/// Where a part lies among the others: of each row its bytes from `column` on.
struct Columns {
  size_t row = 0;
  size_t column = 0;
  size_t bytes = 0;
};

std::vector<Columns> columns_of_parts(const WeightRecipe& recipe, DType dtype) {
  const auto axis = static_cast<int>(recipe.axis);
  std::vector<Columns> columns;
  size_t row = 0;
  for (const WeightPart& part : recipe.parts) {
    const Shape shape = permuted(part.shape, part.perm);
    const size_t bytes = static_cast<size_t>(shape.elements(axis, shape.rank()) * dtype_bytes(dtype));
    columns.push_back({0, row, bytes});
    row += bytes;
  }
  for (Columns& of_part : columns) of_part.row = row;
  return columns;
}

void put_in_columns(const Columns& at, std::span<const std::byte> part, std::span<std::byte> joined) {
  for (size_t i = 0; i * at.bytes < part.size(); ++i)
    std::memcpy(&joined[i * at.row + at.column], &part[i * at.bytes], at.bytes);
}

void join(const WeightSource& weights, const WeightRecipe& recipe, DType dtype, std::span<std::byte> to) {
  const std::vector<Columns> columns = columns_of_parts(recipe, dtype);
  for (size_t i = 0; i < recipe.parts.size(); ++i) {
    const WeightPart& part = recipe.parts[i];
    Bytes content(static_cast<size_t>(byte_size(part.shape, dtype)));
    read_weight(weights, part.source, dtype, content);
    put_in_columns(columns[i], transposed(std::move(content), part.shape, part.perm, dtype), to);
  }
}

}  // namespace

void read_parameter(const WeightSource& weights, const PlanValue& parameter, std::span<std::byte> to) {
  const WeightRecipe& recipe = parameter.recipe;
  if (recipe.is_empty()) return read_weight(weights, parameter.source, parameter.dtype, to);
  if (to.empty()) return;
  if (recipe.perm.empty()) return join(weights, recipe, parameter.dtype, to);
  Bytes joined(to.size());
  join(weights, recipe, parameter.dtype, joined);
  transpose(joined, joined_shape(recipe), recipe.perm, static_cast<size_t>(dtype_bytes(parameter.dtype)), to);
}

Bytes part_of(const WeightRecipe& recipe, size_t part, DType dtype, std::span<const std::byte> content) {
  const Shape joined = joined_shape(recipe);
  const Bytes in_columns =
      transposed(Bytes(content.begin(), content.end()), permuted(joined, recipe.perm), inverse(recipe.perm), dtype);
  const WeightPart& of = recipe.parts[part];
  const Columns at = columns_of_parts(recipe, dtype)[part];
  Bytes result(static_cast<size_t>(byte_size(of.shape, dtype)));
  for (size_t i = 0; i * at.bytes < result.size(); ++i)
    std::memcpy(&result[i * at.bytes], &in_columns[i * at.row + at.column], at.bytes);
  return transposed(std::move(result), permuted(of.shape, of.perm), inverse(of.perm), dtype);
}

void replace_part(const WeightRecipe& recipe, size_t part, DType dtype, std::span<const std::byte> from,
                  std::span<std::byte> content) {
  const Shape joined = joined_shape(recipe);
  Bytes in_columns =
      transposed(Bytes(content.begin(), content.end()), permuted(joined, recipe.perm), inverse(recipe.perm), dtype);
  const WeightPart& of = recipe.parts[part];
  put_in_columns(columns_of_parts(recipe, dtype)[part],
                 transposed(Bytes(from.begin(), from.end()), of.shape, of.perm, dtype), in_columns);
  const Bytes result = transposed(std::move(in_columns), joined, recipe.perm, dtype);
  std::ranges::copy(result, content.begin());
}

}  // namespace mpc
