// Slice, Pad and their gradients. They take every dtype (PadGrad adds: floats only). ONNX opset 27.

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

/// The attribute `shape` of a gradient op as a shape.
Shape shape_attribute(InferContext& context) {
  const auto shape = checked_shape(context.attributes().integers("shape"), context.input(0).dtype);
  if (!shape) context.fail(ErrorId::M031, "attribute 'shape' is not a legal shape");
  return *shape;
}

/// A gradient op's operand 0 must have the shape that the forward op gives.
void require_forward_shape(const InferContext& context, const Dims& forward) {
  if (context.input(0).shape.to_vector() == forward) return;
  context.fail(ErrorId::M032, fmt::format("input 0 has shape {}, ({}) is needed", to_string(context.input(0).shape),
                                          fmt::join(forward, ", ")));
}

/// One sliced axis: elements start, start + step, ... (length of them) of a dimension.
struct SliceAxis {
  int64_t start;
  int64_t end;
  int64_t step;
  int64_t length;
};

/// Clamps as ONNX does. An `end` before the first element is written as -dim - 1, which is how ONNX spells it, so that
/// resolving the result again gives the same. A step longer than the dimension is cut to it.
SliceAxis resolve_slice(int64_t start, int64_t end, int64_t step, int64_t dim) {
  if (dim == 0) return {0, 0, step < 0 ? -1 : 1, 0};
  step = std::clamp(step, -dim, dim);
  if (start < 0) start += dim;
  if (end < 0) end += dim;
  if (step > 0) {
    start = std::clamp<int64_t>(start, 0, dim);
    end = std::clamp<int64_t>(end, 0, dim);
    return {start, end, step, std::max<int64_t>(0, (end - start + step - 1) / step)};
  }
  start = std::clamp<int64_t>(start, 0, dim - 1);
  end = std::clamp<int64_t>(end, -1, dim - 1);
  const int64_t length = std::max<int64_t>(0, (start - end - step - 1) / -step);
  return {start, end < 0 ? -dim - 1 : end, step, length};
}

/// Checks the attributes of a Slice of `x`, makes them canonical and gives the dims of the result.
Dims resolve_slices(InferContext& context, const Shape& x) {
  const Attributes& attributes = context.attributes();
  Dims starts = attributes.integers("starts");
  Dims ends = attributes.integers("ends");
  Dims axes(starts.size());
  std::iota(axes.begin(), axes.end(), 0);
  if (attributes.has("axes")) axes = attributes.integers("axes");
  Dims steps(starts.size(), 1);
  if (attributes.has("steps")) steps = attributes.integers("steps");
  if (ends.size() != starts.size() || axes.size() != starts.size() || steps.size() != starts.size()) {
    context.fail(ErrorId::M033,
                 fmt::format("starts, ends, axes and steps have {}, {}, {} and {} entries, they must be as many",
                             starts.size(), ends.size(), axes.size(), steps.size()));
  }
  Dims dims = x.to_vector();
  std::vector<bool> seen(dims.size());
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto axis = normalize_axis(axes[i], x.rank());
    if (!axis)
      context.fail(ErrorId::M033, fmt::format("axes[{}] is {}, out of range for shape {}", i, axes[i], to_string(x)));
    if (seen[static_cast<size_t>(*axis)]) context.fail(ErrorId::M033, fmt::format("axis {} is listed twice", *axis));
    if (steps[i] == 0) context.fail(ErrorId::M033, fmt::format("steps[{}] is 0", i));
    seen[static_cast<size_t>(*axis)] = true;
    const SliceAxis slice = resolve_slice(starts[i], ends[i], steps[i], x[*axis]);
    axes[i] = *axis;
    starts[i] = slice.start;
    ends[i] = slice.end;
    steps[i] = slice.step;
    dims[static_cast<size_t>(*axis)] = slice.length;
  }
  context.set_attribute("starts", starts);
  context.set_attribute("ends", ends);
  context.set_attribute("axes", axes);
  context.set_attribute("steps", steps);
  return dims;
}

void infer_slice(InferContext& context) {
  const TensorType& x = context.input(0);
  context.set_output(0, x.dtype, resolve_slices(context, x.shape));
}

void grad_slice(GradientContext& context) {
  Attributes attributes = context.attributes();
  attributes.set("shape", context.shape(context.input(0)).to_vector());
  context.set_input_grad(0, context.emit(OpKind::SliceGrad, {context.output_grad(0)}, attributes));
}

void infer_slice_grad(InferContext& context) {
  const Shape x = shape_attribute(context);
  require_forward_shape(context, resolve_slices(context, x));
  context.set_output(0, context.input(0).dtype, x);
}

// ---- Pad

/// The pads of all axes (begins, then ends) from `pads` and `axes`.
Dims pads_of_all_axes(const InferContext& context, int rank) {
  const Attributes& attributes = context.attributes();
  const Dims& pads = attributes.integers("pads");
  Dims axes(static_cast<size_t>(rank));
  std::iota(axes.begin(), axes.end(), 0);
  if (attributes.has("axes")) axes = attributes.integers("axes");
  if (axes.size() > static_cast<size_t>(rank) || pads.size() != 2 * axes.size()) {
    context.fail(ErrorId::M033,
                 fmt::format("pads has {} entries for {} axes of rank {}", pads.size(), axes.size(), rank));
  }
  Dims all(2 * static_cast<size_t>(rank));
  std::vector<bool> seen(static_cast<size_t>(rank));
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto axis = normalize_axis(axes[i], rank);
    if (!axis) context.fail(ErrorId::M033, fmt::format("axes[{}] is {}, out of range for rank {}", i, axes[i], rank));
    const auto at = static_cast<size_t>(*axis);
    if (seen[at]) context.fail(ErrorId::M033, fmt::format("axis {} is listed twice", *axis));
    seen[at] = true;
    all[at] = pads[i];
    all[at + static_cast<size_t>(rank)] = pads[i + axes.size()];
  }
  return all;
}

/// Checks the attributes of a Pad of `x`, makes them canonical and gives the dims of the result. A negative pad crops:
/// cropping comes first, and the other modes repeat what is left.
Dims resolve_pads(InferContext& context, const Shape& x) {
  const std::string& mode = context.attributes().text("mode");
  if (mode != "constant" && mode != "reflect" && mode != "edge" && mode != "wrap") {
    context.fail(ErrorId::M031, fmt::format("mode is '{}'", mode), "use constant, reflect, edge or wrap");
  }
  const int rank = x.rank();
  const Dims pads = pads_of_all_axes(context, rank);
  Dims dims;
  for (int i = 0; i < rank; ++i) {
    const int64_t begin = pads[static_cast<size_t>(i)];
    const int64_t end = pads[static_cast<size_t>(i + rank)];
    std::optional<int64_t> left = checked_add(x[i], std::min<int64_t>(begin, 0));
    if (left) left = checked_add(*left, std::min<int64_t>(end, 0));
    if (!left || *left < 0) {
      context.fail(ErrorId::M033,
                   fmt::format("pads of {} and {} crop more than the dimension of {}", begin, end, x[i]));
    }
    std::optional<int64_t> dim = checked_add(*left, std::max<int64_t>(begin, 0));
    if (dim) dim = checked_add(*dim, std::max<int64_t>(end, 0));
    if (!dim) context.fail(ErrorId::M051, fmt::format("dimension {} overflows", i));
    if (*left == 0 && *dim > 0 && mode != "constant") {
      context.fail(ErrorId::M032, fmt::format("dimension {} has no element that mode {} could repeat", i, mode));
    }
    dims.push_back(*dim);
  }
  context.set_attribute("pads", pads);
  context.erase_attribute("axes");
  return dims;
}

void infer_pad(InferContext& context) {
  const TensorType& x = context.input(0);
  context.set_output(0, x.dtype, resolve_pads(context, x.shape));
}

void grad_pad(GradientContext& context) {
  const Attributes forward = context.attributes();
  const Shape x = context.shape(context.input(0));
  context.set_input_grad(
      0, context.emit(OpKind::PadGrad, {context.output_grad(0)},
                      {{"mode", forward.text("mode")}, {"pads", forward.integers("pads")}, {"shape", x.to_vector()}}));
}

void infer_pad_grad(InferContext& context) {
  const Shape x = shape_attribute(context);
  context.require_float(0);
  require_forward_shape(context, resolve_pads(context, x));
  context.set_output(0, context.input(0).dtype, x);
}

// At most one addition for each element of dy.
OpQuantities cost_pad_grad(const CostContext& context) {
  return {.flops = static_cast<double>(context.input(0).shape.elements())};
}

}  // namespace

extern const OpDef Slice_def;
extern const OpDef SliceGrad_def;
extern const OpDef Pad_def;
extern const OpDef PadGrad_def;

/// Along axes[k]: y[i] = x[starts[k] + i * steps[k]], up to and without ends[k]. 0 FLOPs. Canonical: axes >= 0 in the
/// order given, starts and ends clamped to the dimension, steps explicit (see resolve_slice).
const OpDef Slice_def = {
    .op = OpKind::Slice,
    .attributes = {{"starts", AttributeType::integers, {}},
                   {"ends", AttributeType::integers, {}},
                   {"axes", AttributeType::integers, {}, true},
                   {"steps", AttributeType::integers, {}, true}},
    .static_operands = {{1, "starts"}, {2, "ends"}, {3, "axes"}, {4, "steps"}},
    .infer = infer_slice,
    .gradient = grad_slice,
    .cost = only_moves,
    .no_gradient_inputs = {},
};

/// Operand dy (the result of a Slice of a tensor of `shape`): dx is dy where the Slice read, 0 elsewhere. 0 FLOPs.
const OpDef SliceGrad_def = {
    .op = OpKind::SliceGrad,
    .attributes = {{"starts", AttributeType::integers, {}},
                   {"ends", AttributeType::integers, {}},
                   {"axes", AttributeType::integers, {}, true},
                   {"steps", AttributeType::integers, {}, true},
                   {"shape", AttributeType::integers, {}}},
    .static_operands = {},
    .infer = infer_slice_grad,
    .differentiable = Differentiable::no,
    .cost = only_moves,
    .no_gradient_inputs = {},
};

/// x with pads[k] elements before and pads[k + rank] after it along axis k: `value`, or the elements that `mode`
/// repeats (reflect: mirrored without the border; edge: the border; wrap: as on a torus). Negative pads crop. 0 FLOPs.
/// Canonical: pads of all axes, no axes.
const OpDef Pad_def = {
    .op = OpKind::Pad,
    .attributes = {{"mode", AttributeType::text, std::string("constant")},
                   {"pads", AttributeType::integers, {}},
                   {"value", AttributeType::number, 0.0},
                   {"axes", AttributeType::integers, {}, true}},
    .static_operands = {{1, "pads"}, {2, "value"}, {3, "axes"}},
    .infer = infer_pad,
    .gradient = grad_pad,
    .cost = only_moves,
    .no_gradient_inputs = {},
};

/// Operand dy (the result of a Pad of a tensor of `shape`): dx[j] is the sum of dy over the places that Pad copied x[j]
/// to, in ascending order, accumulated in f64 by the reference. One FLOP for each element of dy.
const OpDef PadGrad_def = {
    .op = OpKind::PadGrad,
    .attributes = {{"mode", AttributeType::text, std::string("constant")},
                   {"pads", AttributeType::integers, {}},
                   {"axes", AttributeType::integers, {}, true},
                   {"shape", AttributeType::integers, {}}},
    .static_operands = {},
    .infer = infer_pad_grad,
    .differentiable = Differentiable::no,
    .cost = cost_pad_grad,
    .no_gradient_inputs = {},
};

}  // namespace mpc::ops
