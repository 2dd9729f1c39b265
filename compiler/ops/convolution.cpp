#include <fmt/format.h>

#include "compiler/base/channels_last.h"
#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"
#include "compiler/ops/window.h"

// Convolution (ONNX 22) and its two gradients, over one to three spatial dimensions.
//   x (N, C, d1...)   w (M, C / group, k1...)   bias (M)   y (N, M, o1...)
// With channels_last (compiler/base/channels_last.h) all but the bias have their second dimension last.

namespace mpc::ops {
namespace {

constexpr int kMaxSpatialDims = 3;

std::vector<AttributeSpec> conv_attributes() {
  return join({{"group", AttributeType::integer, int64_t{1}}, channels_last_attribute()}, window_attributes());
}

std::vector<AttributeSpec> conv_grad_attributes() {
  return join(conv_attributes(), {{"shape", AttributeType::integers}});
}

std::vector<int64_t> spatial_dims(const Shape& shape) {
  return {shape.begin() + 2, shape.end()};
}

/// Checks x and w against each other, makes the attributes canonical, and gives the dimensions of y. All as they are
/// stored.
std::vector<int64_t> conv_result(InferContext& context, const Shape& stored_x, const Shape& stored_w) {
  const Shape x = channels_first_shape(context.attributes(), stored_x);
  const Shape w = channels_first_shape(context.attributes(), stored_w);
  if (x.rank() < 3) context.fail(ErrorId::M032, fmt::format("x has shape {}, (N, C, d1, ...) is needed", to_string(x)));
  if (x.rank() - 2 > kMaxSpatialDims) {
    context.fail(ErrorId::M046,
                 fmt::format("x has {} spatial dimensions, at most {} are supported", x.rank() - 2, kMaxSpatialDims));
  }
  if (w.rank() != x.rank()) {
    context.fail(ErrorId::M032, fmt::format("the weight has shape {}, rank {} is needed for x {}", to_string(w),
                                            x.rank(), to_string(x)));
  }
  const int64_t group = context.attributes().integer("group");
  if (group < 1) context.fail(ErrorId::M031, fmt::format("group is {}, must be 1 or more", group));
  // Divide, do not multiply: group comes from the file and C / group must be exact anyway.
  if (x[1] % group != 0 || x[1] / group != w[1] || w[0] % group != 0) {
    context.fail(ErrorId::M032,
                 fmt::format("x {} has {} channels, but the weight {} with group {} is for {} per group", to_string(x),
                             x[1], to_string(w), group, w[1]),
                 "the weight is (M, C / group, k1, ...), and group divides C and M");
  }
  const std::vector<int64_t> kernel = spatial_dims(w);
  if (context.attributes().has("kernel_shape")) {
    const auto& stated = context.attributes().integers("kernel_shape");
    if (!stated.empty() && stated != kernel) {
      context.fail(ErrorId::M031, fmt::format("kernel_shape differs from the weight's shape {}", to_string(w)));
    }
  }
  std::vector<int64_t> dims = {x[0], w[0]};
  for (const int64_t dim : resolve_window(context, x, kernel, WindowRounding::floor)) dims.push_back(dim);
  return stored_dims(context, std::move(dims));
}

void infer_conv(InferContext& context) {
  context.require_float(0);
  context.require_same_dtype(0, 1);
  const Shape& w = context.input(1).shape;
  const auto dims = conv_result(context, context.input(0).shape, w);
  if (context.has_input(2)) {
    context.require_same_dtype(0, 2);
    const Shape& bias = context.input(2).shape;
    if (bias != Shape{w[0]}) {
      context.fail(ErrorId::M032, fmt::format("the bias has shape {}, ({}) is needed", to_string(bias), w[0]));
    }
  }
  context.set_output(0, context.input(0).dtype, dims);
}

void require_dy(const InferContext& context, const std::vector<int64_t>& dims) {
  const Shape& dy = context.input(0).shape;
  if (dy.to_vector() == dims) return;
  context.fail(ErrorId::M032,
               fmt::format("dy has shape {}, which is not the result of the convolution", to_string(dy)));
}

void infer_conv_input_grad(InferContext& context) {
  context.require_float(0);
  context.require_same_dtype(0, 1);
  const Shape x = shape_attribute(context, "shape", context.input(0).dtype);
  require_dy(context, conv_result(context, x, context.input(1).shape));
  context.set_output(0, context.input(0).dtype, x);
}

void infer_conv_weight_grad(InferContext& context) {
  context.require_float(0);
  context.require_same_dtype(0, 1);
  const Shape w = shape_attribute(context, "shape", context.input(0).dtype);
  require_dy(context, conv_result(context, context.input(1).shape, w));
  context.set_output(0, context.input(0).dtype, w);
}

void conv_gradient(GradientContext& context) {
  const ValueId dy = context.output_grad(0);
  const ValueId x = context.input(0);
  const ValueId w = context.input(1);
  Attributes attributes = context.attributes();
  if (context.needs(0)) {
    attributes.set("shape", context.shape(x).to_vector());
    context.set_input_grad(0, context.emit(OpKind::ConvInputGrad, {dy, w}, attributes, "x"));
  }
  if (context.needs(1)) {
    attributes.set("shape", context.shape(w).to_vector());
    context.set_input_grad(1, context.emit(OpKind::ConvWeightGrad, {dy, x}, attributes, "w"));
  }
  if (context.needs(2)) {
    std::vector<int64_t> axes;
    const int channel_axis = is_channels_last(attributes) ? context.shape(dy).rank() - 1 : 1;
    for (int axis = 0; axis < context.shape(dy).rank(); ++axis) {
      if (axis != channel_axis) axes.push_back(axis);
    }
    context.set_input_grad(2,
                           context.emit(OpKind::ReduceSum, {dy}, {{"axes", axes}, {"keepdims", int64_t{0}}}, "bias"));
  }
}

/// With C the convolution by w as a matrix, this op is C^T: of u = input 0 and g = d(loss)/d(output) the gradient by u
/// is C g, the convolution itself, and the gradient by w is that of <C g, u>, where u stands for dy and g for x.
void conv_input_grad_gradient(GradientContext& context) {
  const ValueId g = context.output_grad(0);
  const ValueId u = context.input(0);
  const ValueId w = context.input(1);
  Attributes attributes = context.attributes();
  attributes.erase("shape");
  if (context.needs(0)) context.set_input_grad(0, context.emit(OpKind::Conv, {g, w}, attributes, "dy"));
  if (context.needs(1)) {
    attributes.set("shape", context.shape(w).to_vector());
    context.set_input_grad(1, context.emit(OpKind::ConvWeightGrad, {u, g}, attributes, "w"));
  }
}

/// Each of the three makes one multiply-add per (element of y, input channel of the group, kernel element).
double product_flops(const Shape& y, const Shape& w) {
  return 2.0 * static_cast<double>(y.elements()) * static_cast<double>(w.elements(1, w.rank()));
}

OpQuantities conv_cost(const CostContext& context) {
  const Shape& y = context.output(0).shape;
  const bool has_bias = context.inputs.size() > 2 && context.inputs[2].has_value();
  return {.flops = product_flops(y, context.input(1).shape) + (has_bias ? static_cast<double>(y.elements()) : 0.0)};
}
OpQuantities conv_input_grad_cost(const CostContext& context) {
  return {.flops = product_flops(context.input(0).shape, context.input(1).shape)};
}
OpQuantities conv_weight_grad_cost(const CostContext& context) {
  return {.flops = product_flops(context.input(0).shape, context.output(0).shape)};
}

}  // namespace

/// y[n,m,o] = bias[m] + sum over c, k of w[m,c,k] x[n, g(m) C/group + c, o * stride - pad + k * dilation], x being zero
/// outside. Accumulates in double (reference) or f32. 2 elements(y) (C / group) prod(k) FLOPs, and elements(y) for
/// the bias. ONNX 22. auto_pad becomes pads.
extern const OpDef Conv_def;
const OpDef Conv_def = {
    .op = OpKind::Conv,
    .min_inputs = 2,
    .max_inputs = 3,
    .attributes = conv_attributes(),
    .infer = infer_conv,
    .gradient = conv_gradient,
    .cost = conv_cost,
};

/// dx of Conv from (dy, w); attributes as the Conv, and `shape`, the shape of x. FLOPs as the products of the Conv. It
/// is what ONNX calls ConvTranspose, so it is trained through.
extern const OpDef ConvInputGrad_def;
const OpDef ConvInputGrad_def = {
    .op = OpKind::ConvInputGrad,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = conv_grad_attributes(),
    .infer = infer_conv_input_grad,
    .gradient = conv_input_grad_gradient,
    .cost = conv_input_grad_cost,
};

/// dw of Conv from (dy, x); attributes as the Conv, and `shape`, the shape of w. FLOPs as the products of the Conv.
extern const OpDef ConvWeightGrad_def;
const OpDef ConvWeightGrad_def = {
    .op = OpKind::ConvWeightGrad,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = conv_grad_attributes(),
    .infer = infer_conv_weight_grad,
    .differentiable = Differentiable::no,
    .cost = conv_weight_grad_cost,
};

}  // namespace mpc::ops
