// Which products cuBLASLt takes, and what the plugin's own kernels do beside it where it has no epilogue.

#include <algorithm>
#include <array>
#include <vector>

#include "compiler/base/product_epilogue.h"
#include "executor/cuda/cublaslt_product.h"
#include "executor/cuda/data.h"
#include "executor/cuda/library_kernels.h"

namespace mpc::cuda {
namespace {

constexpr const char* kNoAlgorithm = "cuBLASLt: no algorithm for these shapes";

/// Are the operands of one type, what is added of the result's, and none is empty?
bool has_types(const executor::NodeSpec& node, DType operands, DType result) {
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const auto& input = node.inputs[i];
    const DType dtype = i == 0 || i == second_factor(node) ? operands : result;
    if (input.is_present && (input.dtype != dtype || input.shape.elements() == 0)) return false;
  }
  return node.outputs[0].dtype == result && node.outputs[0].shape.elements() > 0;
}

/// The product alone, then a kernel of the plugin's own for what it was fused with: on its result, or on operands of
/// its for a second result.
class TwoKernels final : public Kernel {
 public:
  TwoKernels(std::unique_ptr<Kernel> product, std::unique_ptr<Kernel> rest, std::vector<size_t> rest_inputs)
      : product_(std::move(product)), rest_(std::move(rest)), rest_inputs_(std::move(rest_inputs)) {}

  void run(const Launch& launch) override {
    product_->run(launch);
    const bool has_second = launch.outputs.size() > 1;
    std::array<void*, 3> inputs = {};
    size_t count = 0;
    if (!has_second) inputs[count++] = launch.outputs[0];
    for (const size_t i : rest_inputs_) inputs[count++] = launch.inputs[i];
    Launch rest = launch;
    rest.inputs = std::span<void* const>(inputs).first(count);
    rest.outputs = launch.outputs.last(1);
    rest_->run(rest);
  }
  int64_t workspace_bytes() const override { return product_->workspace_bytes(); }
  std::string_view name() const override { return "cuda:cublaslt, then the plugin's"; }

 private:
  std::unique_ptr<Kernel> product_;
  std::unique_ptr<Kernel> rest_;
  std::vector<size_t> rest_inputs_;
};

KernelOrReason then_epilogue(const executor::NodeSpec& node, const MakeOptions& options, LibraryHandle& handle) {
  std::vector<bool> is_present;
  for (const executor::NodeSpec::Operand& operand : node.inputs) is_present.push_back(operand.is_present);
  const ProductEpilogue epilogue = epilogue_of(node.op, *node.attributes, node.inputs[0].dtype, is_present);
  if (epilogue.steps.empty()) return declined(kNoAlgorithm);
  const Attributes attributes = product_attributes(*node.attributes);
  executor::NodeSpec product = node;
  product.attributes = &attributes;
  product.inputs.resize(std::min(product.inputs.size(), product_inputs(node.op)));
  KernelOrReason found = cublaslt_product(product, options, handle);
  if (found.kernel == nullptr) return found;

  const Attributes rest_attributes = {{"steps", print_steps(epilogue.steps)}};
  executor::NodeSpec rest = node;
  rest.op = OpKind::Elementwise;
  rest.attributes = &rest_attributes;
  rest.inputs = {node.outputs[0]};
  for (const size_t i : epilogue.inputs) rest.inputs.push_back(node.inputs[i]);
  KernelOrReason own = find_own_kernel(rest, options);
  if (own.kernel == nullptr) return own;
  return {std::make_unique<TwoKernels>(std::move(found.kernel), std::move(own.kernel), epilogue.inputs), {}};
}

KernelOrReason then_sums(const executor::NodeSpec& node, const MakeOptions& options, LibraryHandle& handle) {
  executor::NodeSpec product = node;
  product.outputs.resize(1);
  KernelOrReason found = cublaslt_product(product, options, handle);
  if (found.kernel == nullptr) return found;
  const std::vector<int64_t> axes = {node.attributes->flag("transB") ? 1 : 0};
  const Attributes attributes = {{"axes", axes}, {"keepdims", int64_t{0}}, {"noop_with_empty_axes", int64_t{0}}};
  executor::NodeSpec sums = node;
  sums.op = OpKind::ReduceSum;
  sums.attributes = &attributes;
  sums.inputs = {node.inputs[second_factor(node)]};
  sums.outputs = {node.outputs[1]};
  KernelOrReason own = find_own_kernel(sums, options);
  if (own.kernel == nullptr) return own;
  return {std::make_unique<TwoKernels>(std::move(found.kernel), std::move(own.kernel),
                                       std::vector<size_t>{second_factor(node)}),
          {}};
}

}  // namespace

KernelOrReason cublaslt_product(const executor::NodeSpec& node, const MakeOptions& options, LibraryHandle& handle) {
  const Library& lt = library(LibraryName::cublaslt);
  if (lt.handle == nullptr) return declined("cuBLASLt: " + lt.path);
  const DType dtype = input_dtype(node, 0);
  const DType result = output_dtype(node, 0);
  if (!is_float(dtype) || !has_types(node, dtype, result)) {
    return declined("cuBLASLt: operands are of different types, are no floats, or are empty");
  }
  if (handle.handle == nullptr) {
    cublasLtHandle_t made = nullptr;
    MPC_LT(cublasLtCreate(&made));
    handle.handle = made;
    handle.destroy = [](void* old) { cublaslt_api().cublasLtDestroy(static_cast<cublasLtHandle_t>(old)); };
  }
  static const CodeCache kCache;
  CublasltProduct::Addends addends{.second = second_factor(node)};
  ProductShape shape = node.op == OpKind::MatMul ? matmul_shape(node) : gemm_shape(node);
  if (shape.activation == ProductShape::Activation::gelu_gradient) {
    addends.of_gelu = 3;
  } else if (has_input(node, 3)) {
    addends.whole = 3;
    shape.beta = 1;
  }
  const bool has_c = has_input(node, 2) && !shape.accumulates;
  const double beta = node.op == OpKind::Gemm ? node.attributes->number("beta") : 1;
  if (has_c && beta != 0) {
    const Shape& c = node.inputs[2].shape;
    const bool is_row = c.rank() >= 1 && c.elements() == shape.columns && c[c.rank() - 1] == shape.columns;
    shape.has_bias = is_row && beta == 1;
    addends.bias = 2;
    if (!shape.has_bias) {
      if (has_input(node, 3)) return then_epilogue(node, options, handle);  // two matrices
      shape.beta = beta;
      (c == node.outputs[0].shape ? addends.whole : addends.bias) = 2;
      addends.is_copied = c != node.outputs[0].shape;
    }
  }
  const auto copy = [&] { return addends.is_copied ? BroadcastCopy(node, 2) : BroadcastCopy(); };
  auto kernel = std::make_unique<CublasltProduct>(shape, addends, copy(), options, handle, kCache);
  if (!kernel->has_algorithm() && shape.has_bias && !has_input(node, 3)) {
    // The row broadcast into the result, and added as c.
    addends.is_copied = true;
    shape.has_bias = false;
    shape.beta = beta;
    kernel = std::make_unique<CublasltProduct>(shape, addends, copy(), options, handle, kCache);
  }
  if (kernel->has_algorithm()) return {std::move(kernel), {}};
  if (shape.has_sums) return then_sums(node, options, handle);
  return shape.accumulates ? declined(kNoAlgorithm) : then_epilogue(node, options, handle);
}

}  // namespace mpc::cuda
