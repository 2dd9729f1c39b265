#include "compiler/base/weight_recipe.h"

#include <algorithm>
#include <limits>
#include <span>

#include <fmt/format.h>

namespace mpc {
namespace {

bool is_permutation_of(const std::vector<int64_t>& perm, int rank) {
  if (perm.empty()) return true;
  if (perm.size() != static_cast<size_t>(rank)) return false;
  std::vector<bool> is_there(perm.size());
  for (const int64_t axis : perm) {
    if (axis < 0 || axis >= rank || is_there[static_cast<size_t>(axis)]) return false;
    is_there[static_cast<size_t>(axis)] = true;
  }
  return true;
}

/// Do the shapes agree in every dimension but `axis`?
bool fit_side_by_side(const Shape& a, const Shape& b, int64_t axis) {
  if (a.rank() != b.rank()) return false;
  for (int i = 0; i < a.rank(); ++i) {
    if (i != axis && a[i] != b[i]) return false;
  }
  return true;
}

}  // namespace

Shape permuted(const Shape& shape, const std::vector<int64_t>& perm) {
  if (perm.empty()) return shape;
  std::vector<int64_t> dims;
  for (const int64_t axis : perm) dims.push_back(shape[static_cast<int>(axis)]);
  return Shape(dims);
}

Shape joined_shape(const WeightRecipe& recipe) {
  const auto axis = static_cast<int>(recipe.axis);
  Shape joined = permuted(recipe.parts.front().shape, recipe.parts.front().perm);
  for (size_t i = 1; i < recipe.parts.size(); ++i) {
    joined.set(axis, joined[axis] + permuted(recipe.parts[i].shape, recipe.parts[i].perm)[axis]);
  }
  return joined;
}

std::string find_problem(const WeightRecipe& recipe, DType dtype, const Shape& shape) {
  for (const WeightPart& part : recipe.parts) {
    if (part.source.empty()) return "a part names no tensor of the model";
    if (!checked_shape(part.shape.dims(), dtype))
      return fmt::format("part \"{}\" of shape {} is too large", part.source, to_string(part.shape));
    if (!is_permutation_of(part.perm, part.shape.rank()))
      return fmt::format("part \"{}\" has a perm that does not order its dimensions", part.source);
  }
  const Shape first = permuted(recipe.parts.front().shape, recipe.parts.front().perm);
  if (recipe.axis < 0 || recipe.axis >= std::max(1, first.rank()))
    return "there is no axis " + std::to_string(recipe.axis);
  if (first.rank() == 0 && recipe.parts.size() > 1) return "scalars do not lie side by side";
  // Sums stay in range: what the parts hold together is compared with the parameter piece by piece.
  int64_t elements = 0;
  int64_t along_axis = 0;  // of empty parts, too
  const int64_t most = shape.elements();
  for (const WeightPart& part : recipe.parts) {
    if (!fit_side_by_side(first, permuted(part.shape, part.perm), recipe.axis))
      return fmt::format("part \"{}\" does not fit beside the first along axis {}", part.source, recipe.axis);
    const int64_t of_part = part.shape.elements();
    if (of_part > most - elements) return "the parts hold more than the parameter";
    elements += of_part;
    const Shape turned = permuted(part.shape, part.perm);
    const int64_t dim = turned.rank() == 0 ? 1 : turned[static_cast<int>(recipe.axis)];
    if (dim > std::numeric_limits<int64_t>::max() - along_axis) return "the parts together are too long";
    along_axis += dim;
  }
  if (elements != most) return "the parts hold less than the parameter";
  const Shape joined = joined_shape(recipe);
  if (!is_permutation_of(recipe.perm, joined.rank())) return "perm does not order the dimensions of the parts together";
  return {};
}

}  // namespace mpc
