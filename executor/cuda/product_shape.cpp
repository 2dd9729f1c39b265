#include "executor/cuda/product_shape.h"

#include "compiler/base/product_epilogue.h"
#include "executor/cuda/data.h"

namespace mpc::cuda {
namespace {

Shape batch_of(const Shape& shape) {
  return shape.rank() < 2 ? Shape{} : Shape(shape.dims().first(static_cast<size_t>(shape.rank() - 2)));
}

bool is_set(const executor::NodeSpec& node, std::string_view name) {
  return node.attributes->has(name) && node.attributes->flag(name);
}

ProductShape::Activation activation_of(const executor::NodeSpec& node) {
  if (!node.attributes->has("activation")) return ProductShape::Activation::none;
  const std::string& name = node.attributes->text("activation");
  if (name == kGeluGradient) return ProductShape::Activation::gelu_gradient;
  return name == "Relu" ? ProductShape::Activation::relu : ProductShape::Activation::gelu;
}

ProductShape shape_of(const executor::NodeSpec& node) {
  ProductShape p;
  p.dtype = input_dtype(node, 0);
  p.result = output_dtype(node, 0);
  p.activation = activation_of(node);
  p.has_sums = has_output(node, 1);
  return p;
}

}  // namespace

bool is_product(const executor::NodeSpec& node) {
  if (node.op == OpKind::GradAccumulate) return node.inputs.size() > 2;
  return node.op == OpKind::MatMul || node.op == OpKind::Gemm;
}

size_t second_factor(const executor::NodeSpec& node) {
  return node.op == OpKind::GradAccumulate ? 2 : 1;
}

ProductShape matmul_shape(const executor::NodeSpec& node) {
  const Shape& a = node.inputs[0].shape;
  const Shape& b = node.inputs[1].shape;
  ProductShape p = shape_of(node);
  p.trans_a = is_set(node, "transA");
  p.trans_b = is_set(node, "transB");
  p.inner = a[a.rank() - (p.trans_a ? 2 : 1)];
  p.rows = a.rank() == 1 ? 1 : a[a.rank() - (p.trans_a ? 1 : 2)];
  p.columns = b.rank() == 1 ? 1 : b[b.rank() - (p.trans_b ? 2 : 1)];
  const Shape a_batch = batch_of(a);
  const Shape b_batch = batch_of(b);
  if (b_batch.elements() == 1 && (!p.trans_a || a_batch.elements() == 1)) {
    // one matrix on the right: all rows of the left in one product
    p.rows *= a_batch.elements();
    return p;
  }
  const Shape batch = *broadcast(a_batch, b_batch);
  Steps a_steps = broadcast_steps(a_batch, batch);
  Steps b_steps = broadcast_steps(b_batch, batch);
  for (size_t d = 0; d < kMaxRank; ++d) {
    a_steps[d] *= p.rows * p.inner;
    b_steps[d] *= p.inner * p.columns;
  }
  const Walk<2> walk = make_walk<2>(batch, {a_steps, b_steps});
  const int last = walk.rank - 1;
  p.count = walk.count[last];
  p.a_step = walk.step[0][last];
  p.b_step = walk.step[1][last];
  p.outer.clear();
  for (int64_t i = 0; i < batch.elements(); i += p.count) {
    const auto begin = walk.positions(i);
    p.outer.push_back({begin.at[0], begin.at[1], i * p.rows * p.columns});
  }
  return p;
}

ProductShape gemm_shape(const executor::NodeSpec& node) {
  const Shape& a = node.inputs[0].shape;
  const Shape& y = node.outputs[0].shape;
  ProductShape p = shape_of(node);
  p.trans_a = node.attributes->flag("transA");
  p.trans_b = node.attributes->flag("transB");
  p.rows = y[0];
  p.columns = y[1];
  p.inner = a[p.trans_a ? 0 : 1];
  p.alpha = node.attributes->number("alpha");
  p.accumulates = node.op == OpKind::GradAccumulate;
  return p;
}

}  // namespace mpc::cuda
