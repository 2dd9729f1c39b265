#include "executor/cuda/kernels/recurrence.h"

namespace mpc::cuda::recurrence {

Product::Product(const Form& form, const MakeOptions& options) {
  Attributes attributes;
  attributes.set("alpha", 1.0);
  attributes.set("beta", 0.0);
  attributes.set("transA", int64_t{form.trans_a});
  attributes.set("transB", int64_t{form.trans_b});
  const auto matrix = [](DType dtype, int64_t rows, int64_t columns, bool is_transposed) {
    return executor::NodeSpec::Operand{dtype, is_transposed ? Shape{columns, rows} : Shape{rows, columns}, true, false};
  };
  executor::NodeSpec node;
  node.op = OpKind::Gemm;
  node.attributes = &attributes;
  node.inputs = {matrix(form.a, form.rows, form.inner, form.trans_a),
                 matrix(form.b, form.inner, form.columns, form.trans_b)};
  node.outputs = {matrix(form.y, form.rows, form.columns, false)};
  MakeOptions mine = options;
  mine.is_aligned = form.is_aligned;
  kernel_ = (options.product ? options.product(node, mine) : cuda::product(node, mine)).kernel;
}

void Product::run(Stream stream, const void* a, const void* b, void* y, void* workspace) const {
  void* const inputs[] = {const_cast<void*>(a), const_cast<void*>(b)};
  void* const outputs[] = {y};
  Launch launch;
  launch.inputs = inputs;
  launch.outputs = outputs;
  launch.workspace = workspace;
  launch.stream = stream;
  kernel_->run(launch);
}

}  // namespace mpc::cuda::recurrence
