#pragma once

#include "executor/backend.h"

// Every factory of CPU kernels; cpu_kernels.cpp says which ops they are for, and in which order. A factory gives a
// kernel for the node, or the reason why it has none.

namespace mpc::cpu {

// Without any library.
executor::KernelOrReason attention_rows(const executor::NodeSpec& node);
executor::KernelOrReason batch_normalization(const executor::NodeSpec& node);
executor::KernelOrReason binary_loops(const executor::NodeSpec& node);
executor::KernelOrReason cast_loop(const executor::NodeSpec& node);
executor::KernelOrReason constant_pad(const executor::NodeSpec& node);
executor::KernelOrReason cross_entropy_rows(const executor::NodeSpec& node);
executor::KernelOrReason fused_product(const executor::NodeSpec& node);
executor::KernelOrReason fused_tiles(const executor::NodeSpec& node);
executor::KernelOrReason gather_runs(const executor::NodeSpec& node);
executor::KernelOrReason pool_planes(const executor::NodeSpec& node);
executor::KernelOrReason reduction_rows(const executor::NodeSpec& node);
executor::KernelOrReason resize_rows(const executor::NodeSpec& node);
executor::KernelOrReason row_normalization(const executor::NodeSpec& node);
executor::KernelOrReason run_movement(const executor::NodeSpec& node);
executor::KernelOrReason softmax_rows(const executor::NodeSpec& node);
executor::KernelOrReason strided_movement(const executor::NodeSpec& node);
executor::KernelOrReason top_k_lines(const executor::NodeSpec& node);
executor::KernelOrReason training_loops(const executor::NodeSpec& node);
executor::KernelOrReason unary_loops(const executor::NodeSpec& node);
executor::KernelOrReason where_loop(const executor::NodeSpec& node);
/// By the best kernel for the same node in f32.
executor::KernelOrReason widened(const executor::NodeSpec& node);

// With oneDNN (MPC_HAS_ONEDNN).
executor::KernelOrReason onednn_conv(const executor::NodeSpec& node);
executor::KernelOrReason onednn_conv_input_grad(const executor::NodeSpec& node);
executor::KernelOrReason onednn_conv_weight_grad(const executor::NodeSpec& node);
executor::KernelOrReason onednn_gemm(const executor::NodeSpec& node);
executor::KernelOrReason onednn_gru(const executor::NodeSpec& node);
executor::KernelOrReason onednn_lstm(const executor::NodeSpec& node);
executor::KernelOrReason onednn_matmul(const executor::NodeSpec& node);

}  // namespace mpc::cpu
