// MatMul and Gemm without a library, with what they were fused with: one thread per result, f64 sums in ascending order
// (integers wrap). Slow; what is taken when cuBLASLt is not there or declines.

#include "compiler/base/product_epilogue.h"
#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/rounded.h"
#include "executor/functors/binary.h"
#include "executor/functors/unary.h"

namespace mpc::cuda {
namespace {

/// alpha or beta: whole for integers (type inference sees to it).
template <class T>
MPC_DEVICE Total<T> factor_of(double factor) {
  if constexpr (std::is_integral_v<T>) return static_cast<T>(static_cast<int64_t>(factor));
  return factor;
}

enum class Activation : uint8_t { none, relu, gelu, gelu_gradient };

/// What a fused product does after the product. Each operator rounds to its type, as it does alone.
struct Epilogue {
  FloatIn row;    // these two may have no data; (columns)
  FloatIn whole;  // of the result's shape; what Gelu was taken of, for its gradient
  Activation activation;
  DType dtype;   // of the product and the sum with the row
  DType result;  // wider where `whole` is
  MPC_DEVICE float operator()(float value, int64_t i, int64_t column) const {
    value = rounded(value, dtype);
    if (activation == Activation::gelu_gradient) {
      return functors::Gelu::gradient(value, whole[i], 0.0f, {1.0f, 0.0f});
    }
    if (row.data != nullptr) value = rounded(value + rounded(row[column], dtype), dtype);
    if (whole.data != nullptr) value = rounded(value + whole[i], result);
    if (activation == Activation::relu) return functors::Relu::value(value, {});
    if (activation == Activation::gelu) return functors::Gelu::value(value, {1.0f, 0.0f});
    return value;
  }
};

/// y[batch, row, column] = alpha * sum over k of a[batch, row, k] b[batch, k, column] + beta * c.
template <class T>
struct Product {
  In<T> a, b, c;  // c may have no data
  Out<T> y;
  Walk<2> batches;  // where the matrices of a and b begin
  Walk<1> addend;
  int64_t rows;
  int64_t columns;
  int64_t inner;
  int64_t a_row, a_step;     // steps of a along rows and k
  int64_t b_step, b_column;  // steps of b along k and columns
  double alpha;
  double beta;
  Epilogue epilogue;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t column = i % columns;
    const int64_t row = i / columns % rows;
    const auto begin = batches.positions(i / columns / rows);
    using functors::Add;
    using functors::Mul;
    using Sum = Total<T>;
    Sum sum = 0;
    for (int64_t k = 0; k < inner; ++k) {
      sum = Add::value(sum, Mul::value(static_cast<Sum>(a[begin.at[0] + row * a_row + k * a_step]),
                                       static_cast<Sum>(b[begin.at[1] + k * b_step + column * b_column])));
    }
    sum = Mul::value(sum, factor_of<T>(alpha));
    if (c.data != nullptr) {
      sum = Add::value(sum, Mul::value(factor_of<T>(beta), static_cast<Sum>(c[addend.positions(i).at[0]])));
    }
    if constexpr (std::is_same_v<T, float>) {
      y.set(i, epilogue(static_cast<float>(sum), i, column));
    } else {
      y.set(i, static_cast<T>(sum));
    }
  }
};

/// A Gemm, and behind its results the sums of op(B)'s columns.
template <class T>
struct ProductAndSums {
  Product<T> product;
  Out<T> sums;  // (columns)
  int64_t results;
  MPC_DEVICE void operator()(int64_t i) const {
    if (i < results) return product(i);
    const int64_t column = i - results;
    Total<T> sum = 0;
    for (int64_t k = 0; k < product.inner; ++k) {
      sum = functors::Add::value(sum, static_cast<Total<T>>(product.b[k * product.b_step + column * product.b_column]));
    }
    sums.set(column, static_cast<T>(sum));
  }
};

bool is_set(const executor::NodeSpec& node, std::string_view name) {
  return node.attributes->has(name) && node.attributes->flag(name);
}

Shape batch_of(const Shape& shape) {
  return shape.rank() < 2 ? Shape{} : Shape(shape.dims().first(static_cast<size_t>(shape.rank() - 2)));
}

template <class T>
void shape_matmul(const executor::NodeSpec& node, Product<T>& product) {
  const Shape& a = node.inputs[0].shape;
  const Shape& b = node.inputs[1].shape;
  const bool trans_a = is_set(node, "transA");
  const bool trans_b = is_set(node, "transB");
  product.inner = a[a.rank() - (trans_a ? 2 : 1)];
  product.rows = a.rank() == 1 ? 1 : a[a.rank() - (trans_a ? 1 : 2)];
  product.columns = b.rank() == 1 ? 1 : b[b.rank() - (trans_b ? 2 : 1)];
  const Shape batch = *broadcast(batch_of(a), batch_of(b));
  Steps a_steps = broadcast_steps(batch_of(a), batch);
  Steps b_steps = broadcast_steps(batch_of(b), batch);
  for (size_t d = 0; d < kMaxRank; ++d) {
    a_steps[d] *= product.rows * product.inner;
    b_steps[d] *= product.inner * product.columns;
  }
  product.batches = make_walk<2>(batch, {a_steps, b_steps});
  product.a_row = trans_a ? 1 : product.inner;
  product.a_step = trans_a ? product.rows : 1;
  product.b_step = trans_b ? 1 : product.columns;
  product.b_column = trans_b ? product.inner : 1;
  product.alpha = 1;
  product.beta = 0;
}

template <class T>
void shape_gemm(const executor::NodeSpec& node, Product<T>& product) {
  const Shape& a = node.inputs[0].shape;
  const Shape& b = node.inputs[1].shape;
  const Shape& y = node.outputs[0].shape;
  const bool trans_a = node.attributes->flag("transA");
  const bool trans_b = node.attributes->flag("transB");
  product.inner = a[trans_a ? 0 : 1];
  product.rows = y[0];
  product.columns = y[1];
  product.a_row = trans_a ? 1 : a[1];
  product.a_step = trans_a ? a[1] : 1;
  product.b_step = trans_b ? 1 : b[1];
  product.b_column = trans_b ? b[1] : 1;
  product.alpha = node.attributes->number("alpha");
  product.beta = node.attributes->number("beta");
  if (has_input(node, 2)) product.addend = make_walk<1>(y, {broadcast_steps(node.inputs[2].shape, y)});
}

Activation activation_of(const executor::NodeSpec& node) {
  if (!node.attributes->has("activation")) return Activation::none;
  const std::string& name = node.attributes->text("activation");
  if (name == kGeluGradient) return Activation::gelu_gradient;
  return name == "Relu" ? Activation::relu : Activation::gelu;
}

/// The product of a MatMul or Gemm, whose pointers are not known yet.
template <class T>
Product<T> make_body(const executor::NodeSpec& node) {
  Product<T> body{};
  const bool is_matmul = node.op == OpKind::MatMul;
  body.epilogue.activation = activation_of(node);
  body.epilogue.result = output_dtype(node, 0);
  body.epilogue.dtype = node.attributes->has("sum_to") ? input_dtype(node, 0) : body.epilogue.result;
  body.epilogue.row.dtype = body.epilogue.whole.dtype = body.epilogue.result;
  if (is_matmul) {
    shape_matmul(node, body);
  } else {
    shape_gemm(node, body);
  }
  body.a.dtype = input_dtype(node, 0);
  body.b.dtype = input_dtype(node, 1);
  body.c.dtype = input_dtype(node, 2);
  body.y.dtype = output_dtype(node, 0);
  return body;
}

template <class T>
KernelOrReason make(const executor::NodeSpec& node) {
  const Product<T> body = make_body<T>(node);
  const bool is_matmul = node.op == OpKind::MatMul;
  const int64_t count = node.outputs[0].shape.elements();
  if (has_output(node, 1)) {
    const ProductAndSums<T> both{body, {nullptr, output_dtype(node, 1)}, count};
    return function_kernel("cuda:plain product", [=](const Launch& launch) {
      ProductAndSums<T> bound = both;
      bound.product.a.data = launch.inputs[0];
      bound.product.b.data = launch.inputs[1];
      bound.product.y.data = launch.outputs[0];
      bound.sums.data = launch.outputs[1];
      for_each(launch.stream, count + bound.product.columns, bound, "product");
    });
  }
  return function_kernel("cuda:plain product", [=](const Launch& launch) {
    Product<T> bound = body;
    bound.a.data = launch.inputs[0];
    bound.b.data = launch.inputs[1];
    (is_matmul ? bound.epilogue.row.data : bound.c.data) = launch.in<void>(2);
    bound.epilogue.whole.data = launch.in<void>(3);
    bound.y.data = launch.outputs[0];
    for_each(launch.stream, count, bound, "product");
  });
}

}  // namespace

KernelOrReason accumulate_product(const executor::NodeSpec& node) {
  if (output_dtype(node, 0) != DType::f32) return declined("GradAccumulate: products are added up in f32");
  executor::NodeSpec gemm = node;
  gemm.op = OpKind::Gemm;
  gemm.inputs = {node.inputs[0], node.inputs[2]};
  Product<float> body = make_body<float>(gemm);
  const ProductAndSums<float> both{body, {nullptr, DType::f32}, node.outputs[0].shape.elements()};
  return function_kernel("cuda:plain product", [=](const Launch& launch) {
    ProductAndSums<float> bound = both;
    bound.product.a.data = launch.inputs[0];
    bound.product.b.data = launch.inputs[2];
    // Added after the product is rounded, as by a kernel of its own.
    bound.product.epilogue.whole.data = launch.microbatch == 0 ? nullptr : launch.in<void>(1);
    bound.product.y.data = launch.outputs[0];
    bound.sums.data = launch.out<void>(1);
    const int64_t columns = bound.sums.data == nullptr ? 0 : bound.product.columns;
    for_each(launch.stream, bound.results + columns, bound, "product");
  });
}

KernelOrReason product(const executor::NodeSpec& node, const MakeOptions&) {
  return with_compute_type(output_dtype(node, 0), [&](auto tag) { return make<decltype(tag)>(node); });
}

}  // namespace mpc::cuda
