// Operators that read or write where an index tensor says: Gather, GatherElements, GatherND, ScatterElements,
// ScatterND, OneHot, and the gradient of Gather. ONNX opset 27. A negative index counts from the end; an index out of
// range is an error (M033) when the kernel meets it, except in OneHot. Reductions add in ascending order of the index
// position, so results do not depend on devices or threads; the reference accumulates floats in f64.

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

/// The largest constant a gradient rule makes, as for folded constants: 64 MiB of i64.
constexpr int64_t kMaxConstantElements = int64_t{1} << 23;

OpQuantities only_moves(const CostContext&) {
  return {};
}

/// GatherND and ScatterND take i64 only.
enum class IndexTypes { i32_or_i64, i64_only };

void require_index(const InferContext& context, int i, IndexTypes types) {
  const DType dtype = context.input(i).dtype;
  if (dtype == DType::i64 || (dtype == DType::i32 && types == IndexTypes::i32_or_i64)) return;
  context.fail(ErrorId::M030, fmt::format("input {} holds indices and is {}, {} is needed", i, dtype_name(dtype),
                                          types == IndexTypes::i64_only ? "i64" : "i32 or i64"));
}

void require_dims(const InferContext& context, int i, const Dims& dims) {
  if (context.input(i).shape.to_vector() == dims) return;
  context.fail(ErrorId::M032, fmt::format("input {} has shape {}, ({}) is needed", i, to_string(context.input(i).shape),
                                          fmt::join(dims, ", ")));
}

void append_dims(Dims& dims, const Shape& shape, int from, int to) {
  for (int i = from; i < to; ++i) dims.push_back(shape[i]);
}

// ---- Gather

Dims gathered_dims(const Shape& data, int axis, const Shape& indices) {
  Dims dims;
  append_dims(dims, data, 0, axis);
  append_dims(dims, indices, 0, indices.rank());
  append_dims(dims, data, axis + 1, data.rank());
  return dims;
}

void infer_gather(InferContext& context) {
  const TensorType& data = context.input(0);
  context.require_min_rank(0, 1);
  require_index(context, 1, IndexTypes::i32_or_i64);
  const int axis = context.axis("axis", data.shape.rank());
  context.set_output(0, data.dtype, gathered_dims(data.shape, axis, context.input(1).shape));
  context.set_attribute("axis", int64_t{axis});
}

void grad_gather(GradientContext& context) {
  const Attributes attributes = {{"axis", context.attributes().integer("axis")},
                                 {"shape", context.shape(context.input(0)).to_vector()}};
  context.set_input_grad(0, context.emit(OpKind::GatherGrad, {context.output_grad(0), context.input(1)}, attributes));
}

void infer_gather_grad(InferContext& context) {
  const TensorType& dy = context.input(0);
  context.require_float(0);
  require_index(context, 1, IndexTypes::i32_or_i64);
  const auto data = checked_shape(context.attributes().integers("shape"), dy.dtype);
  if (!data || data->rank() == 0)
    context.fail(ErrorId::M031, "attribute 'shape' is not a legal shape of rank 1 or more");
  const int axis = context.axis("axis", data->rank());
  require_dims(context, 0, gathered_dims(*data, axis, context.input(1).shape));
  context.set_output(0, dy.dtype, *data);
  context.set_attribute("axis", int64_t{axis});
}

// One addition for each element of dy.
OpQuantities cost_gather_grad(const CostContext& context) {
  return {.flops = static_cast<double>(context.input(0).shape.elements())};
}

// ---- GatherElements and ScatterElements

/// Indices have the rank of the data and, but for the axis, at most its dimensions. Writes the canonical axis.
void check_elements(InferContext& context) {
  const Shape& data = context.input(0).shape;
  const Shape& indices = context.input(1).shape;
  context.require_min_rank(0, 1);
  context.require_rank(1, data.rank());
  require_index(context, 1, IndexTypes::i32_or_i64);
  const int axis = context.axis("axis", data.rank());
  for (int i = 0; i < data.rank(); ++i) {
    if (i == axis || indices[i] <= data[i]) continue;
    context.fail(ErrorId::M032, fmt::format("indices of shape {} reach beyond data of shape {} along axis {}",
                                            to_string(indices), to_string(data), i));
  }
  context.set_attribute("axis", int64_t{axis});
}

void check_reduction(const InferContext& context) {
  const std::string& reduction = context.attributes().text("reduction");
  for (const std::string_view known : {"none", "add", "mul", "max", "min"}) {
    if (reduction == known) return;
  }
  context.fail(ErrorId::M031, fmt::format("reduction is '{}'", reduction), "use none, add, mul, max or min");
}

void infer_gather_elements(InferContext& context) {
  check_elements(context);
  context.set_output(0, context.input(0).dtype, context.input(1).shape);
}

void infer_scatter_elements(InferContext& context) {
  check_elements(context);
  check_reduction(context);
  context.require_same_dtype(0, 2);
  require_dims(context, 2, context.input(1).shape.to_vector());
  context.set_output(0, context.input(0).dtype, context.input(0).shape);
}

void grad_gather_elements(GradientContext& context) {
  const TensorType data = context.type(context.input(0));
  const Attributes attributes = {{"axis", context.attributes().integer("axis")}, {"reduction", std::string("add")}};
  const ValueId zeros = context.fill(0, data.dtype, data.shape);
  context.set_input_grad(
      0, context.emit(OpKind::ScatterElements, {zeros, context.input(1), context.output_grad(0)}, attributes));
}

// ---- GatherND and ScatterND

/// How many leading axes of the data (after the batch axes) the last dimension of the indices addresses. Fails when it
/// is not in 1..rank.
int addressed_axes(const InferContext& context, int batch_dims) {
  const Shape& data = context.input(0).shape;
  const Shape& indices = context.input(1).shape;
  const int64_t depth = indices[indices.rank() - 1];
  if (depth < 1 || depth > data.rank() - batch_dims) {
    context.fail(ErrorId::M032, fmt::format("the last dimension of indices {} is {}, data of shape {} needs 1..{}",
                                            to_string(indices), depth, to_string(data), data.rank() - batch_dims));
  }
  return static_cast<int>(depth);
}

void infer_gather_nd(InferContext& context) {
  context.require_min_rank(0, 1);
  context.require_min_rank(1, 1);
  require_index(context, 1, IndexTypes::i64_only);
  const TensorType& data = context.input(0);
  const Shape& indices = context.input(1).shape;
  const int64_t asked = context.attributes().integer("batch_dims");
  if (asked < 0 || asked >= std::min(data.shape.rank(), indices.rank())) {
    context.fail(ErrorId::M031, fmt::format("batch_dims is {} for data {} and indices {}", asked, to_string(data.shape),
                                            to_string(indices)));
  }
  const int batch_dims = static_cast<int>(asked);
  for (int i = 0; i < batch_dims; ++i) {
    if (data.shape[i] != indices[i]) {
      context.fail(ErrorId::M032, fmt::format("batch dimension {} of data {} and indices {} differ", i,
                                              to_string(data.shape), to_string(indices)));
    }
  }
  const int depth = addressed_axes(context, batch_dims);
  Dims dims;
  append_dims(dims, indices, 0, indices.rank() - 1);
  append_dims(dims, data.shape, batch_dims + depth, data.shape.rank());
  context.set_output(0, data.dtype, dims);
}

void infer_scatter_nd(InferContext& context) {
  context.require_min_rank(0, 1);
  context.require_min_rank(1, 1);
  require_index(context, 1, IndexTypes::i64_only);
  check_reduction(context);
  context.require_same_dtype(0, 2);
  const TensorType& data = context.input(0);
  const Shape& indices = context.input(1).shape;
  const int depth = addressed_axes(context, 0);
  Dims dims;
  append_dims(dims, indices, 0, indices.rank() - 1);
  append_dims(dims, data.shape, depth, data.shape.rank());
  require_dims(context, 2, dims);
  context.set_output(0, data.dtype, data.shape);
}

/// The numbers 0, 1, ... along `axis`, repeated to `shape`.
ValueId coordinates(GradientContext& context, int axis, const Shape& shape) {
  if (shape[axis] > kMaxConstantElements) {
    throw Error(ErrorId::M051, "GatherND",
                fmt::format("batch dimension {} is {}, its gradient allows at most {}", axis, shape[axis],
                            kMaxConstantElements));
  }
  Dims numbers(static_cast<size_t>(shape[axis]));
  std::iota(numbers.begin(), numbers.end(), 0);
  Dims column(static_cast<size_t>(shape.rank()), 1);
  column[static_cast<size_t>(axis)] = shape[axis];
  const auto bytes = std::as_bytes(std::span(numbers));
  const Literal literal(DType::i64, Shape(column), {bytes.begin(), bytes.end()});
  return context.emit(OpKind::Expand, {context.constant("coordinates", literal)}, {{"shape", shape.to_vector()}},
                      "coordinates");
}

// ScatterND has no batch axes: their coordinates are put before the indices.
void grad_gather_nd(GradientContext& context) {
  const int batch_dims = static_cast<int>(context.attributes().integer("batch_dims"));
  const TensorType data = context.type(context.input(0));
  ValueId indices = context.input(1);
  if (batch_dims > 0) {
    Shape column = context.shape(indices);
    const int last = column.rank() - 1;
    column.set(last, 1);
    std::vector<ValueId> parts;
    for (int axis = 0; axis < batch_dims; ++axis) parts.push_back(coordinates(context, axis, column));
    parts.push_back(indices);
    indices = context.emit(OpKind::Concat, parts, {{"axis", int64_t{last}}}, "indices");
  }
  const ValueId zeros = context.fill(0, data.dtype, data.shape);
  context.set_input_grad(0, context.emit(OpKind::ScatterND, {zeros, indices, context.output_grad(0)},
                                         {{"reduction", std::string("add")}}));
}

// ---- the gradient of ScatterElements and ScatterND

/// Gathers and scatters with the indices of the node, whichever of the two ops it is.
class ScatterGradient {
 public:
  ScatterGradient(GradientContext& context, bool by_elements)
      : context_(context),
        by_elements_(by_elements),
        axis_(by_elements ? context.attributes().integer("axis") : 0),
        dy_(context.output_grad(0)),
        data_(context.type(context.input(0))),
        updates_(context.type(context.input(2))) {}

  void run() {
    const std::string reduction = context_.attributes().text("reduction");
    if (reduction == "none") {
      set(0, [&] { return scatter(dy_, zeros(updates_), "none"); });
      set(2, [&] { return gather(dy_); });
    } else if (reduction == "add") {
      set(0, [&] { return dy_; });
      set(2, [&] { return gather(dy_); });
    } else if (reduction == "mul") {
      set(0, [&] { return context_.mul(dy_, scatter(ones(data_), context_.input(2), "mul")); });
      set(2, [&] { return of_factor(); });
    } else {
      of_extremum();
    }
  }

 private:
  template <class F>
  void set(int i, F gradient) {
    if (context_.needs(i)) context_.set_input_grad(i, gradient());
  }

  ValueId zeros(const TensorType& type) { return context_.fill(0, type.dtype, type.shape); }
  ValueId ones(const TensorType& type) { return context_.fill(1, type.dtype, type.shape); }

  ValueId gather(ValueId from) {
    if (by_elements_) return context_.emit(OpKind::GatherElements, {from, context_.input(1)}, {{"axis", axis_}});
    return context_.emit(OpKind::GatherND, {from, context_.input(1)});
  }
  ValueId scatter(ValueId onto, ValueId updates, std::string reduction) {
    if (by_elements_)
      return context_.emit(OpKind::ScatterElements, {onto, context_.input(1), updates},
                           {{"axis", axis_}, {"reduction", reduction}});
    return context_.emit(OpKind::ScatterND, {onto, context_.input(1), updates}, {{"reduction", reduction}});
  }
  ValueId equal(ValueId a, ValueId b) { return context_.emit(OpKind::Equal, {a, b}); }
  ValueId number(ValueId condition) {
    return context_.emit(OpKind::Cast, {condition}, {{"to", std::string(dtype_name(data_.dtype))}});
  }

  // d/du of a product is the product of the other factors. Where u or another factor is 0, y / u is not: so zeros are
  // counted apart from the product of the factors that are not 0.
  ValueId of_factor() {
    const ValueId zero = context_.scalar(0, data_.dtype);
    const ValueId one = context_.scalar(1, data_.dtype);
    const auto without_zeros = [&](ValueId x) { return context_.emit(OpKind::Where, {equal(x, zero), one, x}); };
    const ValueId updates = without_zeros(context_.input(2));
    const ValueId product = scatter(without_zeros(context_.input(0)), updates, "mul");
    const ValueId own_zero = number(equal(context_.input(2), zero));
    const ValueId zero_count = scatter(number(equal(context_.input(0), zero)), own_zero, "add");
    const ValueId has_other_zero = context_.emit(OpKind::Greater, {gather(zero_count), own_zero});
    const ValueId others = context_.emit(OpKind::Where, {has_other_zero, zero, context_.div(gather(product), updates)});
    return context_.mul(gather(dy_), others);
  }

  // max and min: the gradient of an element is shared equally by the operands that attain it.
  void of_extremum() {
    const ValueId y = context_.output(0);
    const ValueId data_hits = number(equal(context_.input(0), y));
    const ValueId update_hits = number(equal(context_.input(2), gather(y)));
    const ValueId share = context_.div(dy_, scatter(data_hits, update_hits, "add"));
    set(0, [&] { return context_.mul(data_hits, share); });
    set(2, [&] { return context_.mul(update_hits, gather(share)); });
  }

  GradientContext& context_;
  bool by_elements_;
  int64_t axis_;
  ValueId dy_;
  TensorType data_;
  TensorType updates_;
};

void grad_scatter_elements(GradientContext& context) {
  ScatterGradient(context, true).run();
}
void grad_scatter_nd(GradientContext& context) {
  ScatterGradient(context, false).run();
}

// With a reduction, one FLOP for each update.
OpQuantities cost_scatter(const CostContext& context) {
  if (context.attributes.text("reduction") == "none") return {};
  return {.flops = static_cast<double>(context.input(2).shape.elements())};
}

// ---- OneHot

void infer_one_hot(InferContext& context) {
  const TensorType& indices = context.input(0);
  const TensorType& values = context.input(1);
  if (indices.dtype == DType::boolean)
    context.fail(ErrorId::M030, "input 0 holds indices and is bool, a number type is needed");
  require_dims(context, 1, {2});
  const int64_t depth = context.attributes().integer("depth");
  if (depth < 0) context.fail(ErrorId::M033, fmt::format("depth is {}", depth), "use 0 or more");
  const int axis = context.axis("axis", indices.shape.rank() + 1);
  Dims dims = indices.shape.to_vector();
  dims.insert(dims.begin() + axis, depth);
  context.set_output(0, values.dtype, dims);
  context.set_attribute("axis", int64_t{axis});
}

// d(on) is the sum of dy where the index points, d(off) the sum elsewhere.
void grad_one_hot(GradientContext& context) {
  const DType dtype = context.dtype(context.input(1));
  const Attributes to_scalar = {{"axes", Dims{}}, {"keepdims", int64_t{0}}};
  std::vector<std::byte> off_on(2 * static_cast<size_t>(dtype_bytes(dtype)));
  write_number(dtype, off_on.data() + dtype_bytes(dtype), 1);
  const ValueId mask_values = context.constant("off_on", Literal(dtype, Shape{2}, std::move(off_on)));
  const ValueId mask = context.emit(OpKind::OneHot, {context.input(0), mask_values}, context.attributes());
  const ValueId dy = context.output_grad(0);
  const ValueId on = context.emit(OpKind::ReduceSum, {context.mul(dy, mask)}, to_scalar);
  const ValueId off = context.sub(context.emit(OpKind::ReduceSum, {dy}, to_scalar), on);
  const std::vector<ValueId> parts = {context.reshape(off, Shape{1}), context.reshape(on, Shape{1})};
  context.set_input_grad(1, context.emit(OpKind::Concat, parts, {{"axis", int64_t{0}}}));
}

}  // namespace

extern const OpDef Gather_def;
extern const OpDef GatherGrad_def;
extern const OpDef GatherElements_def;
extern const OpDef GatherND_def;
extern const OpDef ScatterElements_def;
extern const OpDef ScatterND_def;
extern const OpDef OneHot_def;

/// y[a..., i..., b...] = data[a..., indices[i...], b...] with a before and b after `axis`. 0 FLOPs.
const OpDef Gather_def = {
    .op = OpKind::Gather,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{"axis", AttributeType::integer, int64_t{0}}},
    .static_operands = {},
    .infer = infer_gather,
    .gradient = grad_gather,
    .cost = only_moves,
    .no_gradient_inputs = {1},
};

/// Operands dy and the indices of a Gather from data of `shape`: d data[..., j, ...] is the sum of the dy that was read
/// there, in ascending order of the index position. One FLOP for each element of dy.
const OpDef GatherGrad_def = {
    .op = OpKind::GatherGrad,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{"axis", AttributeType::integer, int64_t{0}}, {"shape", AttributeType::integers, {}}},
    .static_operands = {},
    .infer = infer_gather_grad,
    .differentiable = Differentiable::no,
    .cost = cost_gather_grad,
    .no_gradient_inputs = {1},
};

/// y[i, j, k] = data[indices[i, j, k], j, k] for axis 0, and so on. 0 FLOPs.
const OpDef GatherElements_def = {
    .op = OpKind::GatherElements,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{"axis", AttributeType::integer, int64_t{0}}},
    .static_operands = {},
    .infer = infer_gather_elements,
    .gradient = grad_gather_elements,
    .cost = only_moves,
    .no_gradient_inputs = {1},
};

/// y[b..., i..., c...] = data[b..., indices[b..., i..., :], c...] with b the first `batch_dims` axes. 0 FLOPs.
const OpDef GatherND_def = {
    .op = OpKind::GatherND,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{"batch_dims", AttributeType::integer, int64_t{0}}},
    .static_operands = {},
    .infer = infer_gather_nd,
    .gradient = grad_gather_nd,
    .cost = only_moves,
    .no_gradient_inputs = {1},
};

/// Operands data, indices, updates: data with y[indices[i, j, k], j, k] = updates[i, j, k] for axis 0, and so on; with
/// a `reduction` the update is combined with what is there, one after the other. Without one indices must not repeat
/// (the last update stays, and the gradient goes to all). With a reduction one FLOP for each update.
const OpDef ScatterElements_def = {
    .op = OpKind::ScatterElements,
    .min_inputs = 3,
    .max_inputs = 3,
    .attributes = {{"axis", AttributeType::integer, int64_t{0}},
                   {"reduction", AttributeType::text, std::string("none")}},
    .static_operands = {},
    .infer = infer_scatter_elements,
    .gradient = grad_scatter_elements,
    .cost = cost_scatter,
    .no_gradient_inputs = {1},
};

/// Operands data, indices, updates: data with y[indices[i..., :], c...] = updates[i..., c...]; reductions as
/// ScatterElements.
const OpDef ScatterND_def = {
    .op = OpKind::ScatterND,
    .min_inputs = 3,
    .max_inputs = 3,
    .attributes = {{"reduction", AttributeType::text, std::string("none")}},
    .static_operands = {},
    .infer = infer_scatter_nd,
    .gradient = grad_scatter_nd,
    .cost = cost_scatter,
    .no_gradient_inputs = {1},
};

/// Operands indices and values (off, on): y has one more axis of length `depth`, with y[i..., d] = on where d is
/// indices[i...] (a negative one counts from the end, a float is truncated), else off. An index out of range gives off
/// only. 0 FLOPs. The gradient goes to the values.
const OpDef OneHot_def = {
    .op = OpKind::OneHot,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{"depth", AttributeType::integer, {}}, {"axis", AttributeType::integer, int64_t{-1}}},
    .static_operands = {{1, "depth"}},
    .infer = infer_one_hot,
    .gradient = grad_one_hot,
    .cost = only_moves,
    .no_gradient_inputs = {0},
};

}  // namespace mpc::ops
