#include <algorithm>
#include <cmath>
#include <string>

#include <fmt/format.h>

#include "compiler/base/channels_last.h"
#include "compiler/base/checked.h"
#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"
#include "compiler/ops/window.h"

// Pools (ONNX 22) over any number of spatial dimensions, and Resize (ONNX 19).
//   x (N, C, d1...)   y (N, C, o1...); of the pools with channels_last x (N, d1..., C)   y (N, o1..., C)

namespace mpc::ops {
namespace {

std::vector<AttributeSpec> pool_attributes() {
  return join({{"ceil_mode", AttributeType::integer, int64_t{0}}, channels_last_attribute()}, window_attributes());
}

std::vector<AttributeSpec> average_pool_attributes() {
  return join(pool_attributes(), {{"count_include_pad", AttributeType::integer, int64_t{0}}});
}

/// The dimensions of the result of a pool over x, both as they are stored; attributes become canonical.
std::vector<int64_t> pool_result(InferContext& context, const Shape& stored_x) {
  const Shape x = channels_first_shape(context.attributes(), stored_x);
  if (x.rank() < 3) context.fail(ErrorId::M032, fmt::format("x has shape {}, (N, C, d1, ...) is needed", to_string(x)));
  if (!context.attributes().has("kernel_shape")) context.fail(ErrorId::M031, "attribute 'kernel_shape' is required");
  const bool is_ceil = context.attributes().flag("ceil_mode");
  // auto_pad fixes the number of windows: from its pads on, ceil_mode has nothing left to round.
  const auto* auto_pad = context.attributes().find("auto_pad");
  const std::string mode = auto_pad == nullptr ? std::string() : std::get<std::string>(*auto_pad);
  const bool has_auto_pad = !mode.empty() && mode != "NOTSET";
  const std::vector<int64_t> kernel = context.attributes().integers("kernel_shape");
  const auto spatial =
      resolve_window(context, x, kernel, is_ceil && !has_auto_pad ? WindowRounding::ceil : WindowRounding::floor);
  context.set_attribute("ceil_mode", int64_t{is_ceil && !has_auto_pad});
  std::vector<int64_t> dims = {x[0], x[1]};
  dims.insert(dims.end(), spatial.begin(), spatial.end());
  return stored_dims(context, std::move(dims));
}

void infer_max_pool(InferContext& context) {
  const TensorType& x = context.input(0);
  if (!is_float(x.dtype) && x.dtype != DType::i8 && x.dtype != DType::u8) {
    context.fail(ErrorId::M030, fmt::format("input 0 is {}, a float type, i8 or u8 is needed", dtype_name(x.dtype)));
  }
  const int64_t storage_order = context.attributes().integer("storage_order");
  if (storage_order != 0 && storage_order != 1) {
    context.fail(ErrorId::M031, fmt::format("storage_order is {}, must be 0 or 1", storage_order));
  }
  const auto dims = pool_result(context, x.shape);
  if (is_channels_last(context.attributes()) && context.output_count() > 1)
    context.fail(ErrorId::M046, "indices are of tensors with channels first");
  context.set_output(0, x.dtype, dims);
  context.set_output(1, DType::i64, dims);
}

void require_pooled(const InferContext& context, int i, const std::vector<int64_t>& dims) {
  const Shape& shape = context.input(i).shape;
  if (shape.to_vector() == dims) return;
  context.fail(ErrorId::M032,
               fmt::format("input {} has shape {}, which is not the result of the pool", i, to_string(shape)));
}

void infer_max_pool_grad(InferContext& context) {
  context.require_float(0);
  context.require_same_dtype(0, 1);
  context.require_same_dtype(0, 2);
  const auto dims = pool_result(context, context.input(1).shape);
  require_pooled(context, 0, dims);
  require_pooled(context, 2, dims);
  context.set_output(0, context.input(1).dtype, context.input(1).shape);
}

void max_pool_gradient(GradientContext& context) {
  Attributes attributes = context.attributes();
  attributes.erase("storage_order");
  context.set_input_grad(
      0, context.emit(OpKind::MaxPoolGrad, {context.output_grad(0), context.input(0), context.output(0)}, attributes));
}

void infer_average_pool(InferContext& context) {
  context.require_float(0);
  context.set_output(0, context.input(0).dtype, pool_result(context, context.input(0).shape));
}

void infer_average_pool_grad(InferContext& context) {
  context.require_float(0);
  const DType dtype = context.input(0).dtype;
  const Shape x = shape_attribute(context, "shape", dtype);
  require_pooled(context, 0, pool_result(context, x));
  context.set_output(0, dtype, x);
}

void average_pool_gradient(GradientContext& context) {
  Attributes attributes = context.attributes();
  attributes.set("shape", context.shape(context.input(0)).to_vector());
  context.set_input_grad(0, context.emit(OpKind::AveragePoolGrad, {context.output_grad(0)}, attributes));
}

OpQuantities window_cost(const CostContext& context, const Shape& y) {
  double flops = static_cast<double>(y.elements());
  for (const int64_t extent : context.attributes.integers("kernel_shape")) flops *= static_cast<double>(extent);
  return {.flops = flops};
}
OpQuantities pool_cost(const CostContext& context) {
  return window_cost(context, context.output(0).shape);
}
OpQuantities pool_grad_cost(const CostContext& context) {
  return window_cost(context, context.input(0).shape);
}

// Resize

std::vector<AttributeSpec> resize_attributes() {
  return {
      {"antialias", AttributeType::integer, int64_t{0}},
      {"axes", AttributeType::integers, {}, true},
      {"coordinate_transformation_mode", AttributeType::text, std::string("half_pixel")},
      {"cubic_coeff_a", AttributeType::number, -0.75},
      {"exclude_outside", AttributeType::integer, int64_t{0}},
      {"extrapolation_value", AttributeType::number, 0.0},
      {"keep_aspect_ratio_policy", AttributeType::text, std::string("stretch")},
      {"mode", AttributeType::text, std::string("nearest")},
      {"nearest_mode", AttributeType::text, std::string("round_prefer_floor")},
      {"roi", AttributeType::numbers, {}, true},
      {"scales", AttributeType::numbers, {}, true},
      {"sizes", AttributeType::integers, {}, true},
  };
}

void require_one_of(const InferContext& context, std::string_view name,
                    std::initializer_list<std::string_view> values) {
  const std::string& text = context.attributes().text(name);
  if (std::find(values.begin(), values.end(), text) != values.end()) return;
  context.fail(ErrorId::M031, fmt::format("{} '{}' is not known", name, escaped(text, 40)));
}

void check_resize_modes(const InferContext& context) {
  require_one_of(context, "mode", {"nearest", "linear", "cubic"});
  require_one_of(context, "nearest_mode", {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"});
  require_one_of(context, "keep_aspect_ratio_policy", {"stretch", "not_larger", "not_smaller"});
  require_one_of(context, "coordinate_transformation_mode",
                 {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
                  "tf_crop_and_resize"});
  if (context.attributes().text("mode") == "cubic") {
    context.fail(ErrorId::M046, "mode 'cubic' is not supported", "use 'linear' or 'nearest'");
  }
  if (context.attributes().flag("antialias")) context.fail(ErrorId::M046, "antialias is not supported");
}

/// The axes that scales, sizes and roi speak of: all of them when the attribute is absent.
std::vector<size_t> resize_axes(const InferContext& context, int rank) {
  std::vector<size_t> axes;
  if (!context.attributes().has("axes")) {
    for (int axis = 0; axis < rank; ++axis) axes.push_back(static_cast<size_t>(axis));
    return axes;
  }
  for (const int64_t axis : context.attributes().integers("axes")) {
    const auto normalized = normalize_axis(axis, rank);
    if (!normalized) context.fail(ErrorId::M031, fmt::format("axis {} is out of range for rank {}", axis, rank));
    const auto at = static_cast<size_t>(*normalized);
    if (std::find(axes.begin(), axes.end(), at) != axes.end()) {
      context.fail(ErrorId::M031, fmt::format("axis {} stands twice in axes", axis));
    }
    axes.push_back(at);
  }
  return axes;
}

template <class T>
std::vector<T> list_or_empty(const Attributes& attributes, std::string_view name) {
  const Attribute* value = attributes.find(name);
  return value == nullptr ? std::vector<T>{} : std::get<std::vector<T>>(*value);
}

void require_count(const InferContext& context, std::string_view name, size_t count, size_t needed) {
  if (count == needed) return;
  context.fail(ErrorId::M031, fmt::format("{} has {} entries, {} are needed", name, count, needed));
}

/// What a Resize does: every dimension with its new extent and its scale.
struct Resizing {
  std::vector<int64_t> sizes;
  std::vector<double> scales;
};

Resizing resize_by_scales(const InferContext& context, const Shape& x, const std::vector<size_t>& axes,
                          const std::vector<double>& given) {
  require_count(context, "scales", given.size(), axes.size());
  Resizing result{x.to_vector(), std::vector<double>(static_cast<size_t>(x.rank()), 1.0)};
  for (size_t i = 0; i < axes.size(); ++i) {
    // ONNX states the product of f32 numbers: 0.7f * 10 is 7 there, and below 7 in f64.
    const float extent = std::floor(static_cast<float>(x[static_cast<int>(axes[i])]) * static_cast<float>(given[i]));
    if (!(given[i] > 0) || !(extent < 0x1p47f)) {
      context.fail(ErrorId::M033,
                   fmt::format("scales[{}] is {}, a positive number is needed that keeps the tensor below 2^47 bytes",
                               i, given[i]));
    }
    result.scales[axes[i]] = given[i];
    result.sizes[axes[i]] = static_cast<int64_t>(extent);
  }
  return result;
}

Resizing resize_by_sizes(const InferContext& context, const Shape& x, const std::vector<size_t>& axes,
                         const std::vector<int64_t>& given) {
  require_count(context, "sizes", given.size(), axes.size());
  Resizing result{x.to_vector(), std::vector<double>(static_cast<size_t>(x.rank()), 1.0)};
  for (size_t i = 0; i < axes.size(); ++i) {
    const int64_t extent = x[static_cast<int>(axes[i])];
    if (given[i] < 0 || given[i] >= kMaxTensorBytes || (extent == 0 && given[i] != 0)) {
      context.fail(ErrorId::M033, fmt::format("sizes[{}] is {} for a dimension of {}", i, given[i], extent));
    }
    result.sizes[axes[i]] = given[i];
    if (given[i] > 0) result.scales[axes[i]] = static_cast<double>(given[i]) / static_cast<double>(extent);
  }
  const std::string& policy = context.attributes().text("keep_aspect_ratio_policy");
  if (policy == "stretch" || axes.empty()) return result;
  double scale = result.scales[axes[0]];
  for (const size_t axis : axes) {
    scale = policy == "not_larger" ? std::min(scale, result.scales[axis]) : std::max(scale, result.scales[axis]);
  }
  for (const size_t axis : axes) {
    result.scales[axis] = scale;
    const double extent = std::floor(scale * static_cast<double>(x[static_cast<int>(axis)]) + 0.5);
    if (!(extent < 0x1p47)) context.fail(ErrorId::M051, "the result would have 2^47 bytes or more");
    result.sizes[axis] = static_cast<int64_t>(extent);
  }
  return result;
}

/// Reads both lists when both are there and speak of all dimensions (the canonical form), else the one that is given.
Resizing read_resizing(const InferContext& context, const Shape& x, const std::vector<size_t>& axes) {
  const auto scales = list_or_empty<double>(context.attributes(), "scales");
  const auto sizes = list_or_empty<int64_t>(context.attributes(), "sizes");
  if (scales.empty() && sizes.empty() && !axes.empty()) {
    context.fail(ErrorId::M031, "neither scales nor sizes are given");
  }
  if (scales.empty()) return resize_by_sizes(context, x, axes, sizes);
  if (sizes.empty()) return resize_by_scales(context, x, axes, scales);
  require_count(context, "scales", scales.size(), axes.size());
  Resizing result = resize_by_sizes(context, x, axes, sizes);
  for (size_t i = 0; i < axes.size(); ++i) {
    if (!(scales[i] > 0) || !std::isfinite(scales[i])) {
      context.fail(ErrorId::M033, fmt::format("scales[{}] is {}, a positive number is needed", i, scales[i]));
    }
    result.scales[axes[i]] = scales[i];
  }
  return result;
}

/// The region of interest for all dimensions: starts, then ends, as fractions of the extents.
void canonicalize_roi(InferContext& context, int rank, const std::vector<size_t>& axes) {
  if (context.attributes().text("coordinate_transformation_mode") != "tf_crop_and_resize") {
    context.erase_attribute("roi");
    return;
  }
  const auto given = list_or_empty<double>(context.attributes(), "roi");
  require_count(context, "roi", given.size(), 2 * axes.size());
  const size_t dims = static_cast<size_t>(rank);
  std::vector<double> roi(2 * dims, 0.0);
  std::fill(roi.begin() + rank, roi.end(), 1.0);
  for (size_t i = 0; i < axes.size(); ++i) {
    if (!std::isfinite(given[i]) || !std::isfinite(given[axes.size() + i]))
      context.fail(ErrorId::M033, "roi must be finite");
    roi[axes[i]] = given[i];
    roi[dims + axes[i]] = given[axes.size() + i];
  }
  context.set_attribute("roi", roi);
}

std::vector<int64_t> resize_result(InferContext& context, const Shape& x) {
  check_resize_modes(context);
  const std::vector<size_t> axes = resize_axes(context, x.rank());
  Resizing result = read_resizing(context, x, axes);
  canonicalize_roi(context, x.rank(), axes);
  context.erase_attribute("axes");
  context.set_attribute("keep_aspect_ratio_policy", std::string("stretch"));
  context.set_attribute("scales", result.scales);
  context.set_attribute("sizes", result.sizes);
  return result.sizes;
}

void infer_resize(InferContext& context) {
  const TensorType& x = context.input(0);
  const auto dims = resize_result(context, x.shape);
  if (context.attributes().text("mode") == "linear" && !is_float(x.dtype)) {
    context.fail(ErrorId::M046, fmt::format("mode 'linear' on {} is not supported", dtype_name(x.dtype)),
                 "cast to f32 before");
  }
  context.set_output(0, x.dtype, dims);
}

void infer_resize_grad(InferContext& context) {
  context.require_float(0);
  const DType dtype = context.input(0).dtype;
  const Shape x = shape_attribute(context, "shape", dtype);
  const auto dims = resize_result(context, x);
  if (context.input(0).shape.to_vector() != dims) {
    context.fail(ErrorId::M032, fmt::format("dy has shape {}, which is not the result of the Resize",
                                            to_string(context.input(0).shape)));
  }
  context.set_output(0, dtype, x);
}

void resize_gradient(GradientContext& context) {
  Attributes attributes = context.attributes();
  attributes.set("shape", context.shape(context.input(0)).to_vector());
  context.set_input_grad(0, context.emit(OpKind::ResizeGrad, {context.output_grad(0)}, attributes));
}

/// Linear: a multiply-add for each of the two neighbours along each resized dimension.
OpQuantities resize_flops(const CostContext& context, const Shape& x, const Shape& y) {
  double flops = static_cast<double>(y.elements());
  if (context.attributes.text("mode") == "linear") {
    for (int axis = 0; axis < x.rank(); ++axis) flops *= x[axis] == y[axis] ? 1.0 : 2.0;
    flops *= 2.0;
  }
  return {.flops = flops};
}
OpQuantities resize_cost(const CostContext& context) {
  return resize_flops(context, context.input(0).shape, context.output(0).shape);
}
OpQuantities resize_grad_cost(const CostContext& context) {
  return resize_flops(context, context.output(0).shape, context.input(0).shape);
}

}  // namespace

/// y = the largest element of each window; the pads never win, and a NaN always does (the first one). Indices (i64) are
/// positions in all of x: row-major, or column-major within an image when storage_order is 1. A window that lies in the
/// pads only gives the lowest value of the type and index -1. elements(y) prod(kernel) FLOPs. ONNX 22.
extern const OpDef MaxPool_def;
const OpDef MaxPool_def = {
    .op = OpKind::MaxPool,
    .max_outputs = 2,
    .attributes = join(pool_attributes(), {{"storage_order", AttributeType::integer, int64_t{0}}}),
    .infer = infer_max_pool,
    .gradient = max_pool_gradient,
    .cost = pool_cost,
};

/// dx of MaxPool from (dy, x, y): each dy goes to the first largest element of its window. Sums in double (reference)
/// or f32, in the order of the windows.
extern const OpDef MaxPoolGrad_def;
const OpDef MaxPoolGrad_def = {
    .op = OpKind::MaxPoolGrad,
    .min_inputs = 3,
    .max_inputs = 3,
    .attributes = pool_attributes(),
    .infer = infer_max_pool_grad,
    .differentiable = Differentiable::no,
    .cost = pool_grad_cost,
};

/// y = the mean of each window: over its elements inside x, or with count_include_pad over those inside x and its pads
/// (not what ceil_mode adds beyond them). A window without elements gives 0. Accumulates in double (reference) or f32.
/// elements(y) prod(kernel) FLOPs. ONNX 22.
extern const OpDef AveragePool_def;
const OpDef AveragePool_def = {
    .op = OpKind::AveragePool,
    .attributes = average_pool_attributes(),
    .infer = infer_average_pool,
    .gradient = average_pool_gradient,
    .cost = pool_cost,
};

/// dx of AveragePool from dy; attributes as the pool, and `shape`, the shape of x.
extern const OpDef AveragePoolGrad_def;
const OpDef AveragePoolGrad_def = {
    .op = OpKind::AveragePoolGrad,
    .attributes = join(average_pool_attributes(), {{"shape", AttributeType::integers}}),
    .infer = infer_average_pool_grad,
    .differentiable = Differentiable::no,
    .cost = pool_grad_cost,
};

/// y = x sampled on another grid, nearest or (multi-)linear along every dimension; canonical attributes state `scales`
/// and `sizes` of all dimensions. Cubic and antialias are refused. Linear: 2 * 2^(resized dimensions) FLOPs per element
/// of y. ONNX 19.
extern const OpDef Resize_def;
const OpDef Resize_def = {
    .op = OpKind::Resize,
    .attributes = resize_attributes(),
    .static_operands = {{1, "roi"}, {2, "scales"}, {3, "sizes"}},
    .infer = infer_resize,
    .gradient = resize_gradient,
    .cost = resize_cost,
};

/// dx of Resize from dy: every dy is added to the elements it was made of, with the same weights. Attributes as the
/// Resize, and `shape`, the shape of x.
extern const OpDef ResizeGrad_def;
const OpDef ResizeGrad_def = {
    .op = OpKind::ResizeGrad,
    .attributes = join(resize_attributes(), {{"shape", AttributeType::integers}}),
    .infer = infer_resize_grad,
    .differentiable = Differentiable::no,
    .cost = resize_grad_cost,
};

}  // namespace mpc::ops
