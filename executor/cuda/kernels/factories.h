#pragma once

#include "executor/cuda/kernel.h"

// Every factory of the plugin's own kernels; kernels.def says which ops they are for. A factory gives a kernel for the
// node, or the reason why it has none.

namespace mpc::cuda {

KernelOrReason attention(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason attention_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason average_pool(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason average_pool_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason accumulate(const executor::NodeSpec& node, const MakeOptions& options);
/// A GradAccumulate that adds a product.
KernelOrReason accumulate_product(const executor::NodeSpec& node);
KernelOrReason adam(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason arg_extremum(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason batch_norm(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason batch_norm_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason batch_norm_training(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason binary(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason cast(const executor::NodeSpec& node, const MakeOptions& options);
/// A Split of several tensors, by the launch that casts many.
KernelOrReason split_many(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason concat(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason convolution(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason convolution_input_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason convolution_weight_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason cross_entropy(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason cross_entropy_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason cumulative_sum(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason dropout(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason expand(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason fused(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason gather(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason gather_elements(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason gather_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason gather_nd(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason gru(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason gru_input_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason gru_weight_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason layer_norm(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason layer_norm_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason layer_norm_weight_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason lrn(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason lrn_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason lstm(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason lstm_input_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason lstm_weight_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason max_pool(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason max_pool_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason momentum(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason one_hot(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason pad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason pad_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason predicate(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason product(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason reduction(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason reshape(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason resize(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason resize_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason scatter_elements(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason scatter_nd(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason sgd(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason slice(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason slice_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason softmax(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason softmax_grad(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason split(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason tile(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason top_k(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason transpose(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason triangle(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason unary(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason unary_gradient(const executor::NodeSpec& node, const MakeOptions& options);
KernelOrReason where(const executor::NodeSpec& node, const MakeOptions& options);

}  // namespace mpc::cuda
