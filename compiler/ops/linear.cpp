#include <cmath>

#include <fmt/format.h>

#include "compiler/base/product_epilogue.h"
#include "compiler/base/text.h"
#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"
#include "compiler/ops/widened.h"

// Matrix products: MatMul (ONNX 13) and Gemm (ONNX 13). passes/fuse_products gives them more than ONNX does, after
// differentiation: further operands that are added, a function of the result, and MatMul transposed operands.

namespace mpc::ops {
namespace {

void require_product_dtype(const InferContext& context) {
  const DType dtype = context.input(0).dtype;
  const bool is_product_integer =
      dtype == DType::i32 || dtype == DType::i64 || dtype == DType::u32 || dtype == DType::u64;
  if (is_float(dtype) || is_product_integer) return;
  context.fail(ErrorId::M030,
               fmt::format("input 0 is {}, a float type or a 32 or 64 bit integer is needed", dtype_name(dtype)));
}

Shape with_last(const Shape& leading, int64_t rows, int64_t columns) {
  std::vector<int64_t> dims = leading.to_vector();
  dims.push_back(rows);
  dims.push_back(columns);
  return Shape(dims);
}

Shape leading_dims(const Shape& shape) {
  return Shape(shape.dims().first(static_cast<size_t>(shape.rank() - 2)));
}

/// A vector on the left is a row, on the right a column.
Shape as_left(const Shape& shape) {
  return shape.rank() == 1 ? Shape{1, shape[0]} : shape;
}
Shape as_right(const Shape& shape) {
  return shape.rank() == 1 ? Shape{shape[0], 1} : shape;
}

/// The type of the result, and of what is added to the product: that of the operands, or f32 with `sum_to`.
DType sum_dtype(const InferContext& context, int row, int whole) {
  const DType dtype = context.input(0).dtype;
  if (!context.attributes().has("sum_to")) return dtype;
  const std::string& to = context.attributes().text("sum_to");
  const bool is_half = dtype == DType::bf16 || dtype == DType::f16;
  const bool is_plain = context.has_input(whole) && !context.attributes().has("activation") &&
                        !context.attributes().has("to") && (row >= 0 || !context.has_input(2));
  if (to != dtype_name(DType::f32) || !is_half || !is_plain) {
    context.fail(ErrorId::M031, fmt::format("sum_to is '{}' for operands of {}", escaped(to, 100), dtype_name(dtype)),
                 "it is f32 for operands of bf16 and f16, where input 3 is added and nothing follows");
  }
  return DType::f32;
}

/// What a fused product adds: `row` is one number per column, `whole` has the shape of the result. Then `activation`,
/// for which `whole` may be there instead.
void require_epilogue(InferContext& context, int row, int whole, const Shape& y) {
  const Attribute* activation = context.attributes().find("activation");
  const bool has_row = row >= 0 && context.has_input(row);
  const DType sum = sum_dtype(context, row, whole);
  const auto require_sum_dtype = [&](int i) {
    if (context.input(i).dtype == sum) return;
    context.fail(ErrorId::M030,
                 fmt::format("input {} is {}, {} is needed", i, dtype_name(context.input(i).dtype), dtype_name(sum)));
  };
  if (!has_row && !context.has_input(whole) && activation == nullptr) return;
  context.require_min_rank(0, 2);
  context.require_min_rank(1, 2);
  const DType dtype = context.input(0).dtype;
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) {
    context.fail(ErrorId::M030, fmt::format("a fused product is f32, bf16 or f16, not {}", dtype_name(dtype)));
  }
  if (has_row) {
    require_sum_dtype(row);
    const Shape& shape = context.input(row).shape;
    const int64_t columns = y[y.rank() - 1];
    if (shape != Shape{columns}) {
      context.fail(ErrorId::M032,
                   fmt::format("the added row has shape {}, the result {} columns", to_string(shape), columns));
    }
  }
  if (context.has_input(whole)) {
    require_sum_dtype(whole);
    if (context.input(whole).shape != y) {
      context.fail(ErrorId::M032, fmt::format("what is added has shape {}, the result {}",
                                              to_string(context.input(whole).shape), to_string(y)));
    }
  }
  if (activation == nullptr) return;
  const std::string& name = context.attributes().text("activation");
  if (name == kGeluGradient) {
    if (context.has_input(whole) && !context.has_input(2)) return;
    context.fail(ErrorId::M022,
                 fmt::format("activation {} takes what Gelu was taken of as input 3, and no input 2", kGeluGradient));
  }
  if (name != "Relu" && name != "Gelu") {
    context.fail(ErrorId::M031,
                 fmt::format("activation is '{}', must be Relu, Gelu (by tanh) or {}", name, kGeluGradient));
  }
}

/// Are the last two dimensions of an operand of MatMul read in the other order?
bool is_transposed(const Attributes& attributes, std::string_view name) {
  return attributes.has(name) && attributes.flag(name);
}

Shape swapped(const Shape& shape) {
  Shape result = shape;
  result.set(shape.rank() - 2, shape[shape.rank() - 1]);
  result.set(shape.rank() - 1, shape[shape.rank() - 2]);
  return result;
}

void infer_matmul(InferContext& context) {
  require_product_dtype(context);
  context.require_same_dtype(0, 1);
  context.require_min_rank(0, is_transposed(context.attributes(), "transA") ? 2 : 1);
  context.require_min_rank(1, is_transposed(context.attributes(), "transB") ? 2 : 1);
  const Shape a_shape =
      is_transposed(context.attributes(), "transA") ? swapped(context.input(0).shape) : context.input(0).shape;
  const Shape b_shape =
      is_transposed(context.attributes(), "transB") ? swapped(context.input(1).shape) : context.input(1).shape;
  const Shape a = as_left(a_shape);
  const Shape b = as_right(b_shape);
  if (a[a.rank() - 1] != b[b.rank() - 2]) {
    context.fail(ErrorId::M032, fmt::format("shapes {} and {} cannot be multiplied: the inner dimensions are {} and {}",
                                            to_string(a_shape), to_string(b_shape), a[a.rank() - 1], b[b.rank() - 2]));
  }
  const auto batch = broadcast(leading_dims(a), leading_dims(b));
  if (!batch) {
    context.fail(ErrorId::M032, fmt::format("the leading dimensions of {} and {} do not broadcast", to_string(a_shape),
                                            to_string(b_shape)));
  }
  std::vector<int64_t> dims = batch->to_vector();
  if (a_shape.rank() > 1) dims.push_back(a[a.rank() - 2]);
  if (b_shape.rank() > 1) dims.push_back(b[b.rank() - 1]);
  context.set_output(0, sum_dtype(context, 2, 3), dims);
  require_epilogue(context, 2, 3, Shape(dims));
}

/// Products are fused after the gradients are made, so this is met in a graph that was written by hand only.
void require_plain(const GradientContext& context, int plain_inputs) {
  const Attributes& attributes = context.attributes();
  const bool is_matmul = plain_inputs == 2;
  if (context.input_count() <= plain_inputs && !context.output(1).is_valid() && !attributes.has("activation") &&
      !(is_matmul && (attributes.has("transA") || attributes.has("transB")))) {
    return;
  }
  throw Error(ErrorId::M044, is_matmul ? "MatMul" : "Gemm",
              "a product that was fused with other operators has no gradient");
}

/// dA = dY B^T and dB = A^T dY. A right operand that is one matrix (a Linear layer's weight) takes all rows of the left
/// operand in one Gemm; stacks of matrices are read transposed, multiplied, and summed over what was broadcast.
void matmul_gradient(GradientContext& context) {
  require_plain(context, 2);
  const Shape a_shape = context.shape(context.input(0));
  const Shape b_shape = context.shape(context.input(1));
  const Shape a = as_left(a_shape);
  const Shape b = as_right(b_shape);
  const int64_t rows = a[a.rank() - 2];
  const int64_t columns = b[b.rank() - 1];
  if (b.rank() == 2) {
    const int64_t all_rows = a.elements(0, a.rank() - 1);
    const ValueId dy = context.reshape(context.output_grad(0), Shape{all_rows, columns});
    if (context.needs(0)) {
      const ValueId right = context.reshape(context.input(1), b);
      const ValueId da = context.emit(OpKind::Gemm, {dy, right}, {{"transB", int64_t{1}}}, "a");
      context.set_input_grad(0, context.reshape(da, a_shape));
    }
    if (context.needs(1)) {
      const ValueId left = context.reshape(context.input(0), Shape{all_rows, a[a.rank() - 1]});
      const ValueId db = context.emit(OpKind::Gemm, {left, dy}, {{"transA", int64_t{1}}}, "b");
      context.set_input_grad(1, context.reshape(db, b_shape));
    }
    return;
  }
  const Shape y = with_last(*broadcast(leading_dims(a), leading_dims(b)), rows, columns);
  const ValueId dy = context.reshape(context.output_grad(0), y);
  if (context.needs(0)) {
    const ValueId right = context.reshape(context.input(1), b);
    const ValueId da = context.emit(OpKind::MatMul, {dy, right}, {{"transB", int64_t{1}}}, "a");
    context.set_input_grad(0, context.reshape(context.reduce_to(da, a), a_shape));
  }
  if (context.needs(1)) {
    const ValueId left = context.reshape(context.input(0), a);
    const ValueId db = context.emit(OpKind::MatMul, {left, dy}, {{"transA", int64_t{1}}}, "b");
    context.set_input_grad(1, context.reshape(context.reduce_to(db, b), b_shape));
  }
}

/// FLOPs per element of what is done after the product.
double epilogue_flops(const CostContext& context, size_t first) {
  double flops = context.attributes.has("activation") ? 1 : 0;
  for (size_t i = first; i < context.inputs.size(); ++i) flops += context.inputs[i].has_value() ? 1 : 0;
  return flops;
}

OpQuantities matmul_cost(const CostContext& context) {
  const Shape& a = context.input(0).shape;
  const int64_t inner = a[a.rank() - (is_transposed(context.attributes, "transA") ? 2 : 1)];
  const double elements = static_cast<double>(context.output(0).shape.elements());
  return {.flops = elements * (2.0 * static_cast<double>(inner) + epilogue_flops(context, 2))};
}

bool is_whole(double value) {
  return std::isfinite(value) && std::floor(value) == value && std::abs(value) < 0x1p53;
}

void infer_gemm(InferContext& context) {
  require_product_dtype(context);
  context.require_same_dtype(0, 1);
  context.require_rank(0, 2);
  context.require_rank(1, 2);
  const Attributes& attributes = context.attributes();
  const Shape& a = context.input(0).shape;
  const Shape& b = context.input(1).shape;
  const bool trans_a = attributes.flag("transA");
  const bool trans_b = attributes.flag("transB");
  context.set_attribute("transA", int64_t{trans_a});
  context.set_attribute("transB", int64_t{trans_b});
  const int64_t inner_a = a[trans_a ? 0 : 1];
  const int64_t inner_b = b[trans_b ? 1 : 0];
  if (inner_a != inner_b) {
    context.fail(ErrorId::M032,
                 fmt::format("A {}{} has K={}, B {}{} has K={}", to_string(a), trans_a ? " transposed" : "", inner_a,
                             to_string(b), trans_b ? " transposed" : "", inner_b),
                 fmt::format("give A with {} columns, or B with {} rows", inner_b, inner_a));
  }
  if (!is_float(context.input(0).dtype) &&
      !(is_whole(attributes.number("alpha")) && is_whole(attributes.number("beta")))) {
    context.fail(ErrorId::M046, "alpha and beta must be whole numbers when the operands are integers");
  }
  const Shape y{a[trans_a ? 1 : 0], b[trans_b ? 0 : 1]};
  if (context.has_input(2)) {
    context.require_same_dtype(0, 2);
    const Shape& c = context.input(2).shape;
    if (broadcast(c, y) != y) {
      context.fail(ErrorId::M032, fmt::format("C {} does not broadcast to the result {}", to_string(c), to_string(y)));
    }
  }
  const DType result = attributes.has("sum_to") ? sum_dtype(context, -1, 3) : widened(context, context.input(0).dtype);
  context.set_output(0, result, y);
  context.set_output(1, result, Shape{y[1]});
  if (context.output_count() > 1 && (context.input_count() > 2 || attributes.has("activation"))) {
    context.fail(ErrorId::M031, "only a product alone has the sums of B's columns beside it");
  }
  require_epilogue(context, -1, 3, y);
  const bool has_epilogue = context.has_input(2) || context.has_input(3) || context.attributes().has("activation");
  if (context.attributes().has("to") && has_epilogue)
    context.fail(ErrorId::M031, "to goes with a product alone", "leave out what is added, and the activation");
}

/// With A' = op(A), B' = op(B): dA' = alpha dY B'^T, dB' = alpha A'^T dY, dC = beta dY summed to C's shape. Each is one
/// Gemm, whatever was transposed.
void gemm_gradient(GradientContext& context) {
  require_plain(context, 3);
  const Attributes attributes = context.attributes();
  const Attribute alpha = attributes.number("alpha");
  const double beta = attributes.number("beta");
  const int64_t trans_a = attributes.integer("transA");
  const int64_t trans_b = attributes.integer("transB");
  const ValueId a = context.input(0);
  const ValueId b = context.input(1);
  const ValueId dy = narrowed(context, context.output_grad(0));
  if (context.needs(0)) {
    const ValueId da =
        trans_a != 0
            ? context.emit(OpKind::Gemm, {b, dy}, {{"alpha", alpha}, {"transA", trans_b}, {"transB", int64_t{1}}}, "a")
            : context.emit(OpKind::Gemm, {dy, b}, {{"alpha", alpha}, {"transB", 1 - trans_b}}, "a");
    context.set_input_grad(0, da);
  }
  if (context.needs(1)) {
    const ValueId db =
        trans_b != 0
            ? context.emit(OpKind::Gemm, {dy, a}, {{"alpha", alpha}, {"transA", int64_t{1}}, {"transB", trans_a}}, "b")
            : context.emit(OpKind::Gemm, {a, dy}, {{"alpha", alpha}, {"transA", 1 - trans_a}}, "b");
    context.set_input_grad(1, db);
  }
  if (context.needs(2)) {
    const Shape c_shape = context.shape(context.input(2));
    ValueId dc = context.reduce_to(dy, c_shape);
    if (beta != 1.0) dc = context.mul(dc, context.scalar(beta, context.dtype(dc)));
    context.set_input_grad(2, dc);
  }
}

OpQuantities gemm_cost(const CostContext& context) {
  const Shape& a = context.input(0).shape;
  const double elements = static_cast<double>(context.output(0).shape.elements());
  const int64_t inner = a[context.attributes.flag("transA") ? 0 : 1];
  const bool has_c = context.inputs.size() > 2 && context.inputs[2].has_value();
  const double epilogue = epilogue_flops(context, 3) + (has_c ? 2.0 : 0.0);
  const bool has_sums = context.outputs.size() > 1 && context.outputs[1].has_value();
  const double sums = has_sums ? static_cast<double>(context.input(1).shape.elements()) : 0.0;
  return {.flops = elements * (2.0 * static_cast<double>(inner) + epilogue) + sums};
}

}  // namespace

/// Y = A B as numpy.matmul: stacks of matrices with broadcast leading dimensions; a vector is a row on the left and a
/// column on the right. Accumulates in double (reference) or f32; integers wrap. 2 * elements(Y) * K FLOPs. ONNX 13.
/// Fused: (A, B, row?, whole?) -> activation((op(A) op(B) + row) + whole), each rounded as the operators it was made
/// of; op(M) is M with its last two dimensions swapped (transA, transB) or not. With sum_to "f32" operands are of 16
/// bits, row and whole f32: the row is rounded to 16 bits before it is added, and the sum with whole is in f32. With
/// the activation GeluGrad the result is op(A) op(B) Gelu'(whole), by tanh.
extern const OpDef MatMul_def;
const OpDef MatMul_def = {
    .op = OpKind::MatMul,
    .min_inputs = 2,
    .max_inputs = 4,
    .attributes = {{.name = "activation", .type = AttributeType::text, .is_optional = true},
                   {.name = "origins", .type = AttributeType::texts, .is_optional = true},
                   {.name = "sum_to", .type = AttributeType::text, .is_optional = true},
                   {.name = "transA", .type = AttributeType::integer, .is_optional = true},
                   {.name = "transB", .type = AttributeType::integer, .is_optional = true}},
    .infer = infer_matmul,
    .gradient = matmul_gradient,
    .cost = matmul_cost,
};

/// Y = alpha op(A) op(B) + beta C, op(M) = M or its transpose; C broadcasts to (M, N). Accumulates in double
/// (reference) or f32; integers wrap. `to`: compiler/ops/widened.h. 2 M N K FLOPs, and 2 M N for C. ONNX 13. Fused: (A,
/// B, C?, whole?), then activation, as MatMul; or (A, B) -> Y, the sums of op(B)'s columns: of a weight's gradient and
/// its bias's.
extern const OpDef Gemm_def;
const OpDef Gemm_def = {
    .op = OpKind::Gemm,
    .min_inputs = 2,
    .max_inputs = 4,
    .max_outputs = 2,
    .attributes = {{.name = "activation", .type = AttributeType::text, .is_optional = true},
                   {"alpha", AttributeType::number, 1.0},
                   {"beta", AttributeType::number, 1.0},
                   {.name = "origins", .type = AttributeType::texts, .is_optional = true},
                   {.name = "sum_to", .type = AttributeType::text, .is_optional = true},
                   {"transA", AttributeType::integer, int64_t{0}},
                   {"transB", AttributeType::integer, int64_t{0}},
                   widened_attribute()},
    .infer = infer_gemm,
    .gradient = gemm_gradient,
    .cost = gemm_cost,
};

}  // namespace mpc::ops
