#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "compiler/base/weights.h"
#include "compiler/plan/plan.h"

namespace mpc {

/// Reads the content of a parameter from a model: the tensor `source`, or what `recipe` makes of several. Numbers that
/// the model has in f32 and the plan in 16 bits are rounded. @throws Error as read_weight (rounded_weights.h).
void read_parameter(const WeightSource& weights, const PlanValue& parameter, std::span<std::byte> to);

/// A part of what a recipe made, in the order of its initializer. @pre part < recipe.parts.size().
std::vector<std::byte> part_of(const WeightRecipe& recipe, size_t part, DType dtype,
                               std::span<const std::byte> content);
/// Puts a part, given in the order of its initializer, in its place. @pre as part_of, and the part has its bytes.
void replace_part(const WeightRecipe& recipe, size_t part, DType dtype, std::span<const std::byte> from,
                  std::span<std::byte> content);

}  // namespace mpc
