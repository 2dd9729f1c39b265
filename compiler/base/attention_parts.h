#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "compiler/base/shape.h"

namespace mpc {

/// One of q, k and v where it lies. Element (b, i, h, d) of (batch, sequence, heads, width) is element
/// `begin + b * batch_step() + i * step + h * width + d` of the operand.
struct AttentionPart {
  size_t operand = 0;  // counted from the first of them
  Shape shape;         // (batch, sequence, heads, width)
  int64_t begin = 0;
  int64_t step = 0;  // from one position to the next

  int64_t batch_step() const { return shape[1] * step; }
};

/// Attention reads q, k and v as three operands (batch, sequence, heads, width), or all of them as one that packs them,
/// qkv (batch, sequence, 3, heads, width), as one projection leaves them. Their gradients lie alike.
inline constexpr int64_t kAttentionParts = 3;
inline constexpr int kPackedAttentionRank = 5;

inline bool is_packed_attention(const Shape& first) {
  return first.rank() == kPackedAttentionRank;
}
/// How many operands they are.
inline size_t attention_operands(const Shape& first) {
  return is_packed_attention(first) ? 1 : static_cast<size_t>(kAttentionParts);
}

/// What may be added to the scores, in f32 (f64 for f64), lies as an operand of its own behind q, k and v, and behind y
/// and log_sum of the gradient: (batch or 1, heads or 1, queries or 1, keys), of rank 4. It has no gradient.
struct AttentionMask {
  explicit AttentionMask(const Shape& shape)
      : query_step(shape[2] == 1 ? 0 : shape[3]),
        head_step(shape[1] == 1 ? 0 : shape[2] * shape[3]),
        batch_step(shape[0] == 1 ? 0 : shape[1] * shape[2] * shape[3]) {}

  int64_t query_step, head_step, batch_step;  // elements from one to the next, 0 where all have the same
};

/// The part that is a whole tensor (batch, sequence, heads, width).
inline AttentionPart whole_attention_part(const Shape& shape, size_t operand = 0) {
  return {operand, shape, 0, shape[2] * shape[3]};
}

/// q, k and v. `shape_of(i)`: the shape of operand i of them.
/// @pre rank 5 with 3 as its third dimension, or three operands of rank 4.
template <class ShapeOf>
std::array<AttentionPart, kAttentionParts> attention_parts(ShapeOf&& shape_of) {
  const Shape first = shape_of(size_t{0});
  if (!is_packed_attention(first)) {
    return {whole_attention_part(first), whole_attention_part(shape_of(size_t{1}), 1),
            whole_attention_part(shape_of(size_t{2}), 2)};
  }
  const Shape part{first[0], first[1], first[3], first[4]};
  const int64_t elements = first[3] * first[4];
  const int64_t step = kAttentionParts * elements;
  return {AttentionPart{0, part, 0, step}, AttentionPart{0, part, elements, step},
          AttentionPart{0, part, 2 * elements, step}};
}

}  // namespace mpc
