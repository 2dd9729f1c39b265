// Operators that only move bytes: Reshape, Transpose, Concat, Split, Expand, Tile and Trilu (Slice and Pad are in
// slice.cpp). They take every dtype and compute nothing: 0 FLOPs. ONNX opset 27.

#include <algorithm>
#include <numeric>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "compiler/base/checked.h"
#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

namespace mpc::ops {
namespace {

using Dims = std::vector<int64_t>;

OpQuantities only_moves(const CostContext&) {
  return {};
}

/// The product of dims, or nothing when it overflows. @pre dims >= 0.
std::optional<int64_t> product_of(const Dims& dims) {
  int64_t product = 1;
  for (const int64_t dim : dims) {
    const auto next = checked_mul(product, dim);
    if (!next) return std::nullopt;
    product = *next;
  }
  return product;
}

// ---- Reshape

/// The dims that `shape` asks for, with 0 (copy the input's dimension) resolved and at most one -1 left.
Dims resolve_zeros(const InferContext& context) {
  Dims dims = context.attributes().integers("shape");
  const Shape& from = context.input(0).shape;
  const bool copies_zero = !context.attributes().flag("allowzero");
  int unknown = 0;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] < -1) context.fail(ErrorId::M033, fmt::format("shape[{}] is {}", i, dims[i]), "use -1, 0 or more");
    if (dims[i] == -1 && ++unknown > 1) context.fail(ErrorId::M033, "shape has more than one -1");
    if (dims[i] != 0 || !copies_zero) continue;
    if (static_cast<int>(i) >= from.rank()) {
      context.fail(ErrorId::M033,
                   fmt::format("shape[{}] is 0 (copy), the input {} has no dimension {}", i, to_string(from), i));
    }
    dims[i] = from[static_cast<int>(i)];
  }
  return dims;
}

void infer_reshape(InferContext& context) {
  const TensorType& x = context.input(0);
  Dims dims = resolve_zeros(context);
  const Dims asked = context.attributes().integers("shape");
  const int64_t elements = x.shape.elements();
  const auto unknown = std::find(dims.begin(), dims.end(), -1);
  const bool has_unknown = unknown != dims.end();
  if (has_unknown) *unknown = 1;
  const auto known = product_of(dims);
  const bool fits = known && (has_unknown ? *known != 0 && elements % *known == 0 : *known == elements);
  if (!fits) {
    context.fail(ErrorId::M032, fmt::format("{} has {} elements, it cannot take the shape ({})", to_string(x.shape),
                                            elements, fmt::join(asked, ", ")));
  }
  if (has_unknown) *unknown = elements / *known;
  context.set_output(0, x.dtype, dims);
  const bool has_zero = std::find(dims.begin(), dims.end(), 0) != dims.end();
  context.set_attribute("shape", dims);
  context.set_attribute("allowzero", int64_t{has_zero});
}

void grad_reshape(GradientContext& context) {
  context.set_input_grad(0, context.reshape(context.output_grad(0), context.shape(context.input(0))));
}

// ---- Transpose

void infer_transpose(InferContext& context) {
  const TensorType& x = context.input(0);
  const int rank = x.shape.rank();
  Dims perm(static_cast<size_t>(rank));
  if (context.attributes().has("perm")) {
    perm = context.attributes().integers("perm");
  } else {
    std::iota(perm.rbegin(), perm.rend(), 0);
  }
  Dims sorted = perm;
  std::sort(sorted.begin(), sorted.end());
  Dims axes(static_cast<size_t>(rank));
  std::iota(axes.begin(), axes.end(), 0);
  if (sorted != axes) {
    context.fail(ErrorId::M031,
                 fmt::format("perm ({}) is not a permutation of 0..{}", fmt::join(perm, ", "), rank - 1));
  }
  Dims dims;
  for (const int64_t axis : perm) dims.push_back(x.shape[static_cast<int>(axis)]);
  context.set_output(0, x.dtype, dims);
  context.set_attribute("perm", perm);
}

void grad_transpose(GradientContext& context) {
  const Dims perm = context.attributes().integers("perm");
  Dims inverse(perm.size());
  for (size_t i = 0; i < perm.size(); ++i) inverse[static_cast<size_t>(perm[i])] = static_cast<int64_t>(i);
  context.set_input_grad(0, context.emit(OpKind::Transpose, {context.output_grad(0)}, {{"perm", inverse}}));
}

// ---- Concat and Split

Attributes slice_of_axis(int64_t axis, int64_t start, int64_t end) {
  return {{"starts", Dims{start}}, {"ends", Dims{end}}, {"axes", Dims{axis}}, {"steps", Dims{1}}};
}

void infer_concat(InferContext& context) {
  const TensorType& first = context.input(0);
  context.require_min_rank(0, 1);
  const int axis = context.axis("axis", first.shape.rank());
  Dims dims = first.shape.to_vector();
  for (int i = 1; i < context.input_count(); ++i) {
    if (!context.has_input(i)) context.fail(ErrorId::M022, fmt::format("input {} is required", i));
    context.require_same_dtype(0, i);
    const Shape& shape = context.input(i).shape;
    context.require_rank(i, first.shape.rank());
    for (int d = 0; d < shape.rank(); ++d) {
      if (d == axis || shape[d] == first.shape[d]) continue;
      context.fail(ErrorId::M032,
                   fmt::format("inputs 0 and {} have shapes {} and {}, they may differ along axis {} only", i,
                               to_string(first.shape), to_string(shape), axis));
    }
    const auto sum = checked_add(dims[static_cast<size_t>(axis)], shape[axis]);
    if (!sum) context.fail(ErrorId::M051, "the concatenated dimension overflows");
    dims[static_cast<size_t>(axis)] = *sum;
  }
  context.set_output(0, first.dtype, dims);
  context.set_attribute("axis", int64_t{axis});
}

// One Split when every operand needs its part, else one Slice for each that does.
void grad_concat(GradientContext& context) {
  const int64_t axis = context.attributes().integer("axis");
  const ValueId dy = context.output_grad(0);
  Dims parts;
  bool all_needed = true;
  for (int i = 0; i < context.input_count(); ++i) {
    parts.push_back(context.shape(context.input(i))[static_cast<int>(axis)]);
    all_needed = all_needed && context.needs(i);
  }
  if (all_needed) {
    const auto grads =
        context.emit_many(OpKind::Split, {dy}, context.input_count(), {{"axis", axis}, {"split", parts}});
    for (int i = 0; i < context.input_count(); ++i) context.set_input_grad(i, grads[static_cast<size_t>(i)]);
    return;
  }
  int64_t start = 0;
  for (int i = 0; i < context.input_count(); ++i) {
    const int64_t end = start + parts[static_cast<size_t>(i)];
    if (context.needs(i)) context.set_input_grad(i, context.emit(OpKind::Slice, {dy}, slice_of_axis(axis, start, end)));
    start = end;
  }
}

/// The parts of a Split without explicit ones: equal, the last one smaller when the dimension is not a multiple.
Dims equal_parts(const InferContext& context, int64_t dim) {
  const int64_t count = context.output_count();
  if (context.attributes().has("num_outputs") && context.attributes().integer("num_outputs") != count) {
    context.fail(ErrorId::M031, fmt::format("num_outputs is {}, the node has {} outputs",
                                            context.attributes().integer("num_outputs"), count));
  }
  const int64_t part = dim / count + (dim % count != 0 ? 1 : 0);
  const auto before_last = checked_mul(part, count - 1);
  if (!before_last || *before_last > dim) {
    context.fail(
        ErrorId::M032,
        fmt::format("a dimension of {} cannot be split into {} equal parts (the last may be smaller)", dim, count));
  }
  Dims parts(static_cast<size_t>(count), part);
  parts.back() = dim - *before_last;
  return parts;
}

/// None negative, and together the dimension.
void check_lengths(const InferContext& context, const Dims& parts, int64_t dim) {
  int64_t rest = dim;
  for (const int64_t part : parts) {
    if (part < 0) context.fail(ErrorId::M033, fmt::format("split has a part of {}", part));
    if (part > rest)
      context.fail(ErrorId::M033, fmt::format("the parts of split add up to more than the dimension of {}", dim));
    rest -= part;
  }
  if (rest != 0)
    context.fail(ErrorId::M033, fmt::format("the parts of split add up to {}, the dimension is {}", dim - rest, dim));
}

/// Explicit parts: one for each output, none negative, and together the dimension.
void check_parts(const InferContext& context, const Dims& parts, int64_t dim) {
  if (context.attributes().has("num_outputs")) context.fail(ErrorId::M031, "both split and num_outputs are given");
  if (parts.size() != static_cast<size_t>(context.output_count())) {
    context.fail(ErrorId::M033,
                 fmt::format("split has {} parts, the node has {} outputs", parts.size(), context.output_count()));
  }
  check_lengths(context, parts, dim);
}

/// Several operands, along their last axis: `parts` says how many results each has, `split` lists their lengths.
void infer_splits(InferContext& context) {
  const Dims counts = context.attributes().integers("parts");
  const Dims split = context.attributes().has("split") ? context.attributes().integers("split") : Dims{};
  const bool fits = static_cast<int>(counts.size()) == context.input_count() &&
                    static_cast<int>(split.size()) == context.output_count();
  int64_t left = static_cast<int64_t>(split.size());
  for (const int64_t count : counts) left = count < 1 || count > left ? -1 : left - count;
  if (!fits || left != 0) {
    context.fail(ErrorId::M031,
                 fmt::format("parts is [{}] for {} inputs and {} outputs", fmt::join(counts, ", "),
                             context.input_count(), context.output_count()),
                 "one number of outputs for each input");
  }
  const int rank = context.input(0).shape.rank();
  context.require_min_rank(0, 1);
  const int axis = context.axis("axis", rank);
  if (axis != rank - 1) context.fail(ErrorId::M031, "several inputs are split along their last axis only");
  size_t next = 0;
  for (int i = 0; i < context.input_count(); ++i) {
    if (!context.has_input(i)) context.fail(ErrorId::M022, fmt::format("input {} is required", i));
    context.require_float(i);
    context.require_same_dtype(i, 0);
    context.require_rank(i, rank);
    const TensorType x = context.input(i);
    const auto first = split.begin() + static_cast<std::ptrdiff_t>(next);
    const Dims own(first, first + counts[static_cast<size_t>(i)]);
    check_lengths(context, own, x.shape[axis]);
    for (const int64_t length : own) {
      Shape shape = x.shape;
      shape.set(axis, length);
      context.set_output(static_cast<int>(next++), x.dtype, shape);
    }
  }
  context.set_attribute("axis", int64_t{axis});
}

void infer_split(InferContext& context) {
  if (context.attributes().has("parts")) return infer_splits(context);
  if (context.input_count() > 1) context.fail(ErrorId::M022, "several inputs need the attribute parts");
  const TensorType& x = context.input(0);
  context.require_min_rank(0, 1);
  const int axis = context.axis("axis", x.shape.rank());
  Dims parts;
  if (context.attributes().has("split")) {
    parts = context.attributes().integers("split");
    check_parts(context, parts, x.shape[axis]);
  } else {
    parts = equal_parts(context, x.shape[axis]);
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    Shape shape = x.shape;
    shape.set(axis, parts[i]);
    context.set_output(static_cast<int>(i), x.dtype, shape);
  }
  context.set_attribute("axis", int64_t{axis});
  context.set_attribute("split", parts);
  context.erase_attribute("num_outputs");
}

// Outputs that nothing depends on contribute zeros. A single one that counts is put into zeros by SliceGrad.
void grad_split(GradientContext& context) {
  if (context.attributes().has("parts")) {
    throw Error(ErrorId::M044, "Split", "a Split of several operands has no gradient");
  }
  const int64_t axis = context.attributes().integer("axis");
  const Dims parts = context.attributes().integers("split");
  const TensorType x = context.type(context.input(0));
  const int count = static_cast<int>(parts.size());
  int used = 0;
  int64_t start = 0;
  Attributes only_used;
  for (int i = 0; i < count; ++i) {
    const int64_t end = start + parts[static_cast<size_t>(i)];
    if (context.output_grad(i).is_valid()) {
      ++used;
      only_used = slice_of_axis(axis, start, end);
    }
    start = end;
  }
  std::vector<ValueId> grads;
  for (int i = 0; i < count; ++i) {
    const ValueId grad = context.output_grad(i);
    if (used == 1 && !grad.is_valid()) continue;
    Shape shape = x.shape;
    shape.set(static_cast<int>(axis), parts[static_cast<size_t>(i)]);
    grads.push_back(grad.is_valid() ? grad : context.fill(0, x.dtype, shape));
  }
  if (used == 1 && count > 1) {
    only_used.set("shape", x.shape.to_vector());
    context.set_input_grad(0, context.emit(OpKind::SliceGrad, grads, only_used));
  } else {
    context.set_input_grad(0, context.emit(OpKind::Concat, grads, {{"axis", axis}}));
  }
}

// ---- Expand and Tile

void infer_expand(InferContext& context) {
  const TensorType& x = context.input(0);
  const Dims& asked = context.attributes().integers("shape");
  const int rank = std::max(x.shape.rank(), static_cast<int>(std::min(asked.size(), size_t{kMaxRank} + 1)));
  if (rank > kMaxRank)
    context.fail(ErrorId::M046, fmt::format("shape has rank {}, at most {} is supported", asked.size(), kMaxRank));
  Dims dims(static_cast<size_t>(rank), 1);
  std::copy(asked.begin(), asked.end(), dims.end() - static_cast<std::ptrdiff_t>(asked.size()));
  for (int i = 0; i < rank; ++i) {
    int64_t& dim = dims[static_cast<size_t>(i)];
    const int own = i - (rank - x.shape.rank());
    const int64_t from = own < 0 ? 1 : x.shape[own];
    if (dim < 0) context.fail(ErrorId::M033, fmt::format("shape has a dimension of {}", dim));
    if (from != dim && from != 1 && dim != 1) {
      context.fail(ErrorId::M032,
                   fmt::format("{} does not broadcast with shape ({})", to_string(x.shape), fmt::join(asked, ", ")));
    }
    if (dim == 1) dim = from;
  }
  context.set_output(0, x.dtype, dims);
  context.set_attribute("shape", dims);
}

void grad_expand(GradientContext& context) {
  context.set_input_grad(0, context.reduce_to(context.output_grad(0), context.shape(context.input(0))));
}

void infer_tile(InferContext& context) {
  const TensorType& x = context.input(0);
  const Dims& repeats = context.attributes().integers("repeats");
  if (repeats.size() != static_cast<size_t>(x.shape.rank())) {
    context.fail(ErrorId::M033, fmt::format("repeats has {} entries, the input {} needs {}", repeats.size(),
                                            to_string(x.shape), x.shape.rank()));
  }
  Dims dims;
  for (int i = 0; i < x.shape.rank(); ++i) {
    const int64_t repeat = repeats[static_cast<size_t>(i)];
    if (repeat < 0) context.fail(ErrorId::M033, fmt::format("repeats[{}] is {}", i, repeat));
    const auto dim = checked_mul(x.shape[i], repeat);
    if (!dim) context.fail(ErrorId::M051, fmt::format("dimension {} overflows", i));
    dims.push_back(*dim);
  }
  context.set_output(0, x.dtype, dims);
}

// Axis by axis, so that no intermediate has more than four dimensions whatever the rank is.
void grad_tile(GradientContext& context) {
  const Dims repeats = context.attributes().integers("repeats");
  const Shape x = context.shape(context.input(0));
  ValueId grad = context.output_grad(0);
  for (int axis = 0; axis < x.rank(); ++axis) {
    const int64_t repeat = repeats[static_cast<size_t>(axis)];
    if (repeat == 1) continue;
    Shape summed = context.shape(grad);
    const Shape parts{x.elements(0, axis), repeat, x[axis], summed.elements(axis + 1, summed.rank())};
    summed.set(axis, x[axis]);
    grad =
        context.emit(OpKind::ReduceSum, {context.reshape(grad, parts)}, {{"axes", Dims{1}}, {"keepdims", int64_t{0}}});
    grad = context.reshape(grad, summed);
  }
  context.set_input_grad(0, grad);
}

// ---- Trilu

void infer_trilu(InferContext& context) {
  context.require_min_rank(0, 2);
  context.set_output(0, context.input(0).dtype, context.input(0).shape);
}

void grad_trilu(GradientContext& context) {
  context.set_input_grad(0, context.emit(OpKind::Trilu, {context.output_grad(0)}, context.attributes()));
}

}  // namespace

extern const OpDef Reshape_def;
extern const OpDef Transpose_def;
extern const OpDef Concat_def;
extern const OpDef Split_def;
extern const OpDef Expand_def;
extern const OpDef Tile_def;
extern const OpDef Trilu_def;

/// y = x with the dims `shape`, elements in the same order. One -1 stands for what is left; 0 copies the input's
/// dimension unless `allowzero`. Canonical: the result's shape, and allowzero = 1 exactly when it has a zero.
const OpDef Reshape_def = {
    .op = OpKind::Reshape,
    .attributes = {{"shape", AttributeType::integers, {}}, {"allowzero", AttributeType::integer, int64_t{0}}},
    .static_operands = {{1, "shape"}},
    .infer = infer_reshape,
    .gradient = grad_reshape,
    .cost = only_moves,
    .no_gradient_inputs = {},
};

/// y[i_perm[0], i_perm[1], ...] = x[i_0, i_1, ...]; without `perm` the axes are reversed. Canonical: perm is there.
const OpDef Transpose_def = {
    .op = OpKind::Transpose,
    .attributes = {{"perm", AttributeType::integers, {}, true}},
    .static_operands = {},
    .infer = infer_transpose,
    .gradient = grad_transpose,
    .cost = only_moves,
    .no_gradient_inputs = {},
};

/// The operands one after the other along `axis`. Canonical: axis >= 0.
const OpDef Concat_def = {
    .op = OpKind::Concat,
    .max_inputs = OpDef::kVariadic,
    .attributes = {{"axis", AttributeType::integer, {}}},
    .static_operands = {},
    .infer = infer_concat,
    .gradient = grad_concat,
    .cost = only_moves,
    .no_gradient_inputs = {},
};

/// The inverse of Concat: output i has split[i] elements along `axis`. Canonical: axis >= 0, split explicit, no
/// num_outputs. With `parts` (passes/batch_splits) several float operands of one rank are split along their last axis:
/// operand i to the next parts[i] outputs.
const OpDef Split_def = {
    .op = OpKind::Split,
    .max_inputs = OpDef::kVariadic,
    .max_outputs = OpDef::kVariadic,
    .attributes = {{"axis", AttributeType::integer, int64_t{0}},
                   {"split", AttributeType::integers, {}, true},
                   {"num_outputs", AttributeType::integer, {}, true},
                   {"parts", AttributeType::integers, {}, true}},
    .static_operands = {{1, "split"}},
    .infer = infer_split,
    .gradient = grad_split,
    .cost = only_moves,
    .no_gradient_inputs = {},
};

/// x broadcast with a tensor of shape `shape`. Canonical: the result's shape.
const OpDef Expand_def = {
    .op = OpKind::Expand,
    .attributes = {{"shape", AttributeType::integers, {}}},
    .static_operands = {{1, "shape"}},
    .infer = infer_expand,
    .gradient = grad_expand,
    .cost = only_moves,
    .no_gradient_inputs = {},
};

/// y[i_0, i_1, ...] = x[i_0 mod d_0, i_1 mod d_1, ...] with dims d_k * repeats[k].
const OpDef Tile_def = {
    .op = OpKind::Tile,
    .attributes = {{"repeats", AttributeType::integers, {}}},
    .static_operands = {{1, "repeats"}},
    .infer = infer_tile,
    .gradient = grad_tile,
    .cost = only_moves,
    .no_gradient_inputs = {},
};

/// The last two dimensions are matrices: with `upper` the elements with column - row >= k stay, else those with
/// column - row <= k; the others become 0.
const OpDef Trilu_def = {
    .op = OpKind::Trilu,
    .attributes = {{"upper", AttributeType::integer, int64_t{1}}, {"k", AttributeType::integer, int64_t{0}}},
    .static_operands = {{1, "k"}},
    .infer = infer_trilu,
    .gradient = grad_trilu,
    .cost = only_moves,
    .no_gradient_inputs = {},
};

}  // namespace mpc::ops
