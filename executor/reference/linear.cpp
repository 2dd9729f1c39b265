#include <vector>

#include "compiler/base/product_epilogue.h"
#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

/// Integers wrap: sums and products are made without a sign.
template <class C>
C multiply_add(C sum, C a, C b) {
  if constexpr (std::is_same_v<C, double>) {
    return sum + a * b;
  } else {
    return static_cast<C>(static_cast<uint64_t>(sum) + static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
  }
}

/// One matrix within an array: element (row, column) is at `begin + row * row_step + column * column_step`.
struct Matrix {
  int64_t begin;
  int64_t row_step;
  int64_t column_step;
};

/// Row `row` of A B into `out`; every element is summed over k in ascending order.
template <class C>
void product_row(const std::vector<C>& a, Matrix in_a, const std::vector<C>& b, Matrix in_b, int64_t row, int64_t inner,
                 std::vector<C>& out) {
  std::fill(out.begin(), out.end(), C{});
  for (int64_t k = 0; k < inner; ++k) {
    const C factor = a[static_cast<size_t>(in_a.begin + row * in_a.row_step + k * in_a.column_step)];
    for (size_t column = 0; column < out.size(); ++column) {
      const int64_t at = in_b.begin + k * in_b.row_step + static_cast<int64_t>(column) * in_b.column_step;
      out[column] = multiply_add(out[column], factor, b[static_cast<size_t>(at)]);
    }
  }
}

Shape batch_of(const Shape& shape) {
  return shape.rank() < 2 ? Shape{} : Shape(shape.dims().first(static_cast<size_t>(shape.rank() - 2)));
}

bool is_set(const Attributes& attributes, std::string_view name) {
  return attributes.has(name) && attributes.flag(name);
}

/// What a fused product does after the product, operator by operator on the result.
void finish(const KernelCall& call, std::initializer_list<size_t> added) {
  const Attributes none;
  const TensorView y = call.outputs[0];
  if (call.attributes.has("activation") && call.attributes.text("activation") == kGeluGradient) {
    const Attributes gelu = gelu_gradient_attributes();
    const TensorView operands[] = {y, call.inputs[3]};
    return reference_kernel(OpKind::UnaryGrad)({gelu, operands, {&y, 1}, call.step, {}});
  }
  for (const size_t i : added) {
    if (!call.has_input(i)) continue;
    const TensorView operands[] = {y, call.inputs[i]};
    reference_kernel(OpKind::Add)({none, operands, {&y, 1}, call.step, {}});
  }
  if (!call.attributes.has("activation")) return;
  const bool is_gelu = call.attributes.text("activation") == "Gelu";
  const Attributes by_tanh = {{"approximate", std::string("tanh")}};
  reference_kernel(is_gelu ? OpKind::Gelu : OpKind::Relu)({is_gelu ? by_tanh : none, {&y, 1}, {&y, 1}, call.step, {}});
}

/// With `sum_to`: product (of the operands' type) + row, rounded like that, and the sum with operand 3 in f32.
template <class Product>
void wide_sum(const KernelCall& call, Product&& product) {
  const TensorView& y = call.outputs[0];
  const DType narrow = call.inputs[0].dtype;
  const Attributes none;
  const auto bytes = [&](const Shape& shape) { return static_cast<size_t>(shape.elements() * dtype_bytes(narrow)); };
  std::vector<std::byte> own(bytes(y.shape));
  const TensorView result{narrow, y.shape, own.data()};
  product({call.attributes, call.inputs, {&result, 1}, call.step, {}});
  if (call.has_input(2)) {
    std::vector<std::byte> row_bytes(bytes(call.inputs[2].shape));
    const TensorView row{narrow, call.inputs[2].shape, row_bytes.data()};
    reference_kernel(OpKind::Cast)({none, call.inputs.subspan(2, 1), {&row, 1}, call.step, {}});
    const TensorView operands[] = {result, row};
    reference_kernel(OpKind::Add)({none, operands, {&result, 1}, call.step, {}});
  }
  reference_kernel(OpKind::Cast)({none, {&result, 1}, {&y, 1}, call.step, {}});
  const TensorView operands[] = {y, call.inputs[3]};
  reference_kernel(OpKind::Add)({none, operands, {&y, 1}, call.step, {}});
}

template <class C>
void matmul(const KernelCall& call) {
  const Shape& a_shape = call.inputs[0].shape;
  const Shape& b_shape = call.inputs[1].shape;
  const int a_swapped = is_set(call.attributes, "transA") ? 1 : 0;
  const int b_swapped = is_set(call.attributes, "transB") ? 1 : 0;
  const int64_t inner = a_shape[a_shape.rank() - 1 - a_swapped];
  const int64_t rows = a_shape.rank() == 1 ? 1 : a_shape[a_shape.rank() - 2 + a_swapped];
  const int64_t columns = b_shape.rank() == 1 ? 1 : b_shape[b_shape.rank() - 1 - b_swapped];
  const Shape a_batch = batch_of(a_shape);
  const Shape b_batch = batch_of(b_shape);
  const Shape batch = *broadcast(a_batch, b_batch);
  const Index a_steps = broadcast_strides(a_batch, batch);
  const Index b_steps = broadcast_strides(b_batch, batch);
  if (call.outputs[0].shape.elements() == 0) return;

  const std::vector<C> a = load_all<C>(call.inputs[0]);
  const std::vector<C> b = load_all<C>(call.inputs[1]);
  std::vector<C> out(static_cast<size_t>(columns));
  int64_t written = 0;
  for_each_index(batch, [&](const Index& index) {
    const int64_t a_begin = offset(index, a_steps, batch.rank()) * rows * inner;
    const int64_t b_begin = offset(index, b_steps, batch.rank()) * inner * columns;
    const Matrix in_a = a_swapped != 0 ? Matrix{a_begin, 1, rows} : Matrix{a_begin, inner, 1};
    const Matrix in_b = b_swapped != 0 ? Matrix{b_begin, 1, inner} : Matrix{b_begin, columns, 1};
    for (int64_t row = 0; row < rows; ++row) {
      product_row(a, in_a, b, in_b, row, inner, out);
      store<C>(call.outputs[0], written, out);
      written += columns;
    }
  });
}

/// alpha * product + beta * c. Integer factors are whole (type inference sees to it).
template <class C>
C scaled_sum(double alpha, C product, double beta, C c) {
  if constexpr (std::is_same_v<C, double>) {
    return alpha * product + beta * c;
  } else {
    const C scaled = multiply_add(C{}, static_cast<C>(static_cast<int64_t>(alpha)), product);
    return multiply_add(scaled, static_cast<C>(static_cast<int64_t>(beta)), c);
  }
}

template <class C>
void gemm(const KernelCall& call) {
  const double alpha = call.attributes.number("alpha");
  const double beta = call.attributes.number("beta");
  const bool trans_a = call.attributes.flag("transA");
  const bool trans_b = call.attributes.flag("transB");
  const Shape& a_shape = call.inputs[0].shape;
  const Shape& b_shape = call.inputs[1].shape;
  const Shape& y_shape = call.outputs[0].shape;
  const Matrix in_a = trans_a ? Matrix{0, 1, a_shape[1]} : Matrix{0, a_shape[1], 1};
  const Matrix in_b = trans_b ? Matrix{0, 1, b_shape[1]} : Matrix{0, b_shape[1], 1};
  const int64_t inner = a_shape[trans_a ? 0 : 1];
  if (y_shape.elements() == 0) return;

  const std::vector<C> a = load_all<C>(call.inputs[0]);
  const std::vector<C> b = load_all<C>(call.inputs[1]);
  std::vector<C> out(static_cast<size_t>(y_shape[1]));
  std::vector<C> c(out.size(), C{});
  for (int64_t row = 0; row < y_shape[0]; ++row) {
    product_row(a, in_a, b, in_b, row, inner, out);
    const bool has_c = call.has_input(2);
    if (has_c) load_broadcast<C>(call.inputs[2], y_shape, row * y_shape[1], c);
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = has_c ? scaled_sum(alpha, out[i], beta, c[i]) : scaled_sum(alpha, out[i], 0.0, C{});
    }
    store<C>(call.outputs[0], row * y_shape[1], out);
  }
}

/// Output 1 of a Gemm: the sums of op(B)'s columns.
void sum_columns(const KernelCall& call) {
  if (!call.has_output(1)) return;
  const std::vector<int64_t> axes = {call.attributes.flag("transB") ? 1 : 0};
  const Attributes attributes = {{"axes", axes}, {"keepdims", int64_t{0}}, {"noop_with_empty_axes", int64_t{0}}};
  reference_kernel(OpKind::ReduceSum)(
      {attributes, call.inputs.subspan(1, 1), call.outputs.subspan(1, 1), call.step, {}});
}

}  // namespace

void MatMul(const KernelCall& call) {
  const auto product = [](const KernelCall& alone) {
    with_compute_type(alone.inputs[0].dtype, [&](auto c) { matmul<decltype(c)>(alone); });
  };
  if (call.attributes.has("sum_to")) return wide_sum(call, product);
  product(call);
  finish(call, {2, 3});
}

void Gemm(const KernelCall& call) {
  const auto product = [](const KernelCall& alone) {
    with_compute_type(alone.inputs[0].dtype, [&](auto c) { gemm<decltype(c)>(alone); });
  };
  if (call.attributes.has("sum_to")) return wide_sum(call, product);
  product(call);
  finish(call, {3});
  sum_columns(call);
}

}  // namespace mpc::reference
