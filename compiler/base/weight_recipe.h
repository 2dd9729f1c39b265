#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compiler/base/shape.h"

namespace mpc {

/// A tensor of the model, as it is or transposed.
struct WeightPart {
  std::string source;  // the initializer's name
  Shape shape;         // of the initializer
  std::vector<int64_t>
      perm;  // empty: as it is; otherwise dimension i of the part is dimension perm[i] of the initializer
  bool operator==(const WeightPart&) const = default;
};

/// How a parameter is made of tensors of the model when a session loads it: parts side by side along an axis, then
/// transposed, then seen as the parameter's shape. Elements are moved, and rounded where the parameter has fewer bits.
struct WeightRecipe {
  std::vector<WeightPart> parts;     // none: the parameter is its `source` as it is
  int64_t axis = 0;                  // of the parts
  std::vector<int64_t> perm;         // of what they make; empty: as it is
  std::vector<std::string> origins;  // the ONNX nodes whose work this is
  bool is_empty() const { return parts.empty(); }
  bool operator==(const WeightRecipe&) const = default;
};

/// The dimensions in another order; as they are for an empty perm. @pre perm is a permutation of them.
Shape permuted(const Shape& shape, const std::vector<int64_t>& perm);
/// The parts side by side, before the last transposition. @pre find_problem found none.
Shape joined_shape(const WeightRecipe& recipe);
/// What is wrong with a recipe that is not empty for a parameter of this type; empty when nothing is.
std::string find_problem(const WeightRecipe& recipe, DType dtype, const Shape& shape);

}  // namespace mpc
