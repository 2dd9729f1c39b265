// Cast: y[i] = x[i] as another dtype (ONNX opset 27). The attribute `to` is a dtype name ("f32").
//
// Float to float rounds to nearest even. Float to integer truncates towards zero; what is outside the range of the
// dtype becomes its nearest end, NaN becomes 0. Integer to integer keeps the low bits; integer to float rounds to
// nearest even (to f16 and bf16 through f32). Anything other than 0 is true. One FLOP per element is counted. Gradient:
// a Cast back. One node may cast any number of tensors of one dtype (passes/batch_casts). With the attribute `joined`
// result i is joined[i] operands side by side in their last dimension.

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "compiler/base/checked.h"

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

namespace mpc::ops {
namespace {

/// The shape of `count` operands from `first` on, side by side in their last dimension.
Shape joined_shape(const InferContext& context, int first, int count) {
  for (int i = first; i < first + count; ++i) {
    if (!context.has_input(i)) context.fail(ErrorId::M022, fmt::format("input {} is required", i));
    context.require_same_dtype(i, 0);
    context.require_min_rank(i, 1);
  }
  Shape shape = context.input(first).shape;
  const int axis = shape.rank() - 1;
  for (int i = first + 1; i < first + count; ++i) {
    const Shape& other = context.input(i).shape;
    const bool fits = other.rank() == shape.rank() && std::ranges::equal(other.dims().first(static_cast<size_t>(axis)),
                                                                         shape.dims().first(static_cast<size_t>(axis)));
    if (!fits) {
      context.fail(ErrorId::M032, fmt::format("inputs {} and {} have shapes {} and {}, they may differ in the last "
                                              "dimension only",
                                              first, i, to_string(shape), to_string(other)));
    }
    const auto sum = checked_add(shape[axis], other[axis]);
    if (!sum) context.fail(ErrorId::M051, "the joined dimension overflows");
    shape.set(axis, *sum);
  }
  return shape;
}

void infer_joined(InferContext& context, DType dtype) {
  const std::vector<int64_t>& joined = context.attributes().integers("joined");
  int first = 0;
  for (size_t i = 0; i < joined.size(); ++i) {
    if (joined[i] < 1 || joined[i] > context.input_count() - first) break;
    context.set_output(static_cast<int>(i), dtype, joined_shape(context, first, static_cast<int>(joined[i])));
    first += static_cast<int>(joined[i]);
  }
  const bool is_whole = first == context.input_count() && context.output_count() == static_cast<int>(joined.size());
  if (!is_whole) {
    context.fail(ErrorId::M031,
                 fmt::format("joined is [{}] for {} inputs and {} outputs", fmt::join(joined, ", "),
                             context.input_count(), context.output_count()),
                 "one number of inputs for each output");
  }
}

void infer_cast(InferContext& context) {
  const std::string& to = context.attributes().text("to");
  const auto dtype = parse_dtype(to);
  if (!dtype) context.fail(ErrorId::M031, "to is '" + escaped(to, 100) + "'", "use a dtype name such as f32");
  if (context.attributes().has("joined")) return infer_joined(context, *dtype);
  if (context.output_count() != context.input_count()) {
    context.fail(ErrorId::M022, fmt::format("has {} inputs and {} outputs, they must be as many", context.input_count(),
                                            context.output_count()));
  }
  for (int i = 0; i < context.input_count(); ++i) {
    if (!context.has_input(i)) context.fail(ErrorId::M022, fmt::format("input {} is required", i));
    context.require_same_dtype(i, 0);
    context.set_output(i, *dtype, context.input(i).shape);
  }
}

void gradient_cast(GradientContext& context) {
  if (context.attributes().has("joined")) {
    throw Error(ErrorId::M044, "Cast", "a Cast that joins its operands has no gradient");
  }
  for (int i = 0; i < context.input_count(); ++i) {
    const DType from = context.dtype(context.input(i));
    if (!context.needs(i) || !is_float(from) || !is_float(*parse_dtype(context.attributes().text("to")))) continue;
    const ValueId gradient = context.output_grad(i);
    if (!gradient.is_valid()) {
      context.set_input_grad(i, context.fill(0, from, context.shape(context.input(i))));
    } else if (context.dtype(gradient) == from) {  // sums of gradients may be f32 where the value is less
      context.set_input_grad(i, gradient);
    } else {
      context.set_input_grad(i, context.emit(OpKind::Cast, {gradient}, {{"to", std::string(dtype_name(from))}}));
    }
  }
}

OpQuantities cast_cost(const CostContext& context) {
  double elements = 0;
  for (const auto& output : context.outputs) elements += output ? static_cast<double>(output->shape.elements()) : 0;
  return {.flops = elements};
}

}  // namespace

extern const OpDef Cast_def;
const OpDef Cast_def = {
    .op = OpKind::Cast,
    .max_inputs = OpDef::kVariadic,
    .max_outputs = OpDef::kVariadic,
    .attributes = {{.name = "joined", .type = AttributeType::integers, .is_optional = true},
                   {.name = "to", .type = AttributeType::text}},
    .infer = infer_cast,
    .gradient = gradient_cast,
    .cost = cast_cost,
};

}  // namespace mpc::ops
