// Products that were fused with what follows them (passes/fuse_products): the product's own kernel, then the operators
// after it as a program on the result, in place. Each rounds as it does alone: the bits are the same by construction.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "compiler/base/product_epilogue.h"
#include "executor/cpu/cpu_kernels.h"
#include "executor/cpu/factories.h"
#include "executor/cpu/support.h"

namespace mpc::cpu {
namespace {

class FusedProduct final : public Kernel {
 public:
  FusedProduct(std::unique_ptr<Kernel> product, size_t operands, std::unique_ptr<Kernel> rest,
               std::vector<size_t> rest_inputs)
      : product_(std::move(product)),
        operands_(operands),
        rest_(std::move(rest)),
        rest_inputs_(std::move(rest_inputs)),
        name_(std::string(product_->name()) + ", fused") {}

  void run(const KernelCall& call) override {
    product_->run({call.attributes, call.inputs.first(operands_), call.outputs, call.step, call.workspace});
    std::vector<TensorView> operands = {call.outputs[0]};
    for (const size_t i : rest_inputs_) operands.push_back(call.inputs[i]);
    rest_->run({call.attributes, operands, call.outputs, call.step, {}});
  }
  void forget_constants() override { product_->forget_constants(); }
  int64_t kept_bytes() const override { return product_->kept_bytes(); }
  std::string_view name() const override { return name_; }

 private:
  std::unique_ptr<Kernel> product_;
  size_t operands_;  // of the product
  std::unique_ptr<Kernel> rest_;
  std::vector<size_t> rest_inputs_;
  std::string name_;
};

/// A Gemm, and the sums of B's columns by the kernel that sums have alone.
class ProductAndSums final : public Kernel {
 public:
  ProductAndSums(std::unique_ptr<Kernel> product, std::unique_ptr<Kernel> sums)
      : product_(std::move(product)), sums_(std::move(sums)), name_(std::string(product_->name()) + ", sums") {}

  void run(const KernelCall& call) override {
    product_->run({call.attributes, call.inputs, call.outputs.first(1), call.step, call.workspace});
    sums_->run({call.attributes, call.inputs.subspan(1, 1), call.outputs.subspan(1, 1), call.step, {}});
  }
  void forget_constants() override { product_->forget_constants(); }
  int64_t kept_bytes() const override { return product_->kept_bytes(); }
  std::string_view name() const override { return name_; }

 private:
  std::unique_ptr<Kernel> product_;
  std::unique_ptr<Kernel> sums_;
  std::string name_;
};

KernelOrReason product_and_sums(const NodeSpec& node) {
  NodeSpec product = node;
  product.outputs.resize(1);
  KernelOrReason found = find_kernel(product);
  if (found.kernel == nullptr) return declined(found.reason);
  const std::vector<int64_t> axes = {node.attributes->flag("transB") ? 1 : 0};
  const Attributes attributes = {{"axes", axes}, {"keepdims", int64_t{0}}, {"noop_with_empty_axes", int64_t{0}}};
  NodeSpec sums = node;
  sums.op = OpKind::ReduceSum;
  sums.attributes = &attributes;
  sums.inputs = {node.inputs[1]};
  sums.outputs = {node.outputs[1]};
  KernelOrReason found_sums = find_kernel(sums);
  if (found_sums.kernel == nullptr) return declined(found_sums.reason);
  return {std::make_unique<ProductAndSums>(std::move(found.kernel), std::move(found_sums.kernel)), {}};
}

}  // namespace

KernelOrReason fused_product(const NodeSpec& node) {
  if (has_output(node, 1)) return product_and_sums(node);
  std::vector<bool> is_present;
  for (const NodeSpec::Operand& operand : node.inputs) is_present.push_back(operand.is_present);
  const ProductEpilogue epilogue = epilogue_of(node.op, *node.attributes, node.inputs[0].dtype, is_present);
  if (epilogue.steps.empty()) return declined({});  // a product alone

  const Attributes attributes = product_attributes(*node.attributes);
  NodeSpec product = node;
  product.attributes = &attributes;
  product.inputs.resize(std::min(product.inputs.size(), product_inputs(node.op)));
  KernelOrReason found = find_kernel(product);
  if (found.kernel == nullptr) return declined(found.reason);

  const Attributes rest_attributes = {{"steps", print_steps(epilogue.steps)}};
  NodeSpec rest = node;
  rest.op = OpKind::Elementwise;
  rest.attributes = &rest_attributes;
  rest.inputs = {node.outputs[0]};
  for (const size_t i : epilogue.inputs) rest.inputs.push_back(node.inputs[i]);
  return {std::make_unique<FusedProduct>(std::move(found.kernel), product.inputs.size(), fused_tiles(rest).kernel,
                                         epilogue.inputs),
          {}};
}

}  // namespace mpc::cpu
