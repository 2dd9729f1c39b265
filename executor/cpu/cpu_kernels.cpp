#include "executor/cpu/cpu_kernels.h"

#include <array>
#include <initializer_list>
#include <vector>

#include "executor/cpu/factories.h"
#include "executor/functors/unary.h"

namespace mpc::cpu {
namespace {

using executor::KernelFactory;

/// The factories of every op, best first.
class Table {
 public:
  Table() {
    add({OpKind::Gemm, OpKind::MatMul}, &fused_product);  // before the libraries, whose kernels it takes
    add_libraries();
    add_elementwise();
    add({OpKind::Elementwise}, &fused_tiles);
    add({OpKind::Softmax, OpKind::LogSoftmax, OpKind::SoftmaxGrad, OpKind::LogSoftmaxGrad}, &softmax_rows);
    add({OpKind::ScaledDotProductAttention, OpKind::ScaledDotProductAttentionGrad}, &attention_rows);
    add({OpKind::SoftmaxCrossEntropyLoss, OpKind::SoftmaxCrossEntropyLossGrad}, &cross_entropy_rows);
    add({OpKind::LayerNormalization, OpKind::LayerNormalizationGrad, OpKind::LayerNormalizationWeightGrad,
         OpKind::RMSNormalization, OpKind::RMSNormalizationGrad, OpKind::RMSNormalizationWeightGrad},
        &row_normalization);
    add({OpKind::BatchNormalization, OpKind::BatchNormalizationTraining, OpKind::BatchNormalizationGrad},
        &batch_normalization);
    add({OpKind::ReduceL2, OpKind::ReduceMax, OpKind::ReduceMean, OpKind::ReduceMin, OpKind::ReduceSum,
         OpKind::ReduceSumSquare},
        &reduction_rows);
    add({OpKind::TopK}, &top_k_lines);
    add({OpKind::MaxPool, OpKind::MaxPoolGrad, OpKind::AveragePool, OpKind::AveragePoolGrad}, &pool_planes);
    add({OpKind::Transpose, OpKind::Expand, OpKind::Slice, OpKind::SliceGrad}, &strided_movement);
    add({OpKind::Reshape, OpKind::Concat, OpKind::Split}, &run_movement);
    add({OpKind::Pad, OpKind::PadGrad}, &constant_pad);
    add({OpKind::Gather, OpKind::GatherGrad}, &gather_runs);
    add({OpKind::Resize, OpKind::ResizeGrad}, &resize_rows);
    add({OpKind::Where}, &where_loop);
    add({OpKind::Cast}, &cast_loop);
    add({OpKind::GradAccumulate, OpKind::SgdUpdate, OpKind::MomentumUpdate, OpKind::AdamUpdate, OpKind::Dropout},
        &training_loops);
    add_widened();
  }

  const std::vector<KernelFactory>& of(OpKind op) const { return factories_[static_cast<size_t>(op)]; }

 private:
  void add(std::initializer_list<OpKind> ops, KernelFactory factory) {
    for (const OpKind op : ops) factories_[static_cast<size_t>(op)].push_back(factory);
  }

  void add_libraries() {
#ifdef MPC_HAS_ONEDNN
    add({OpKind::Conv}, &onednn_conv);
    add({OpKind::ConvInputGrad}, &onednn_conv_input_grad);
    add({OpKind::ConvWeightGrad}, &onednn_conv_weight_grad);
    add({OpKind::Gemm}, &onednn_gemm);
    add({OpKind::MatMul}, &onednn_matmul);
    add({OpKind::GRU, OpKind::GRUInputGrad, OpKind::GRUWeightGrad}, &onednn_gru);
    add({OpKind::LSTM, OpKind::LSTMInputGrad, OpKind::LSTMWeightGrad}, &onednn_lstm);
#endif
  }

  void add_elementwise() {
#define MPC_ITEM(name) OpKind::name,
    add({MPC_UNARY(MPC_ITEM) OpKind::UnaryGrad}, &unary_loops);
#undef MPC_ITEM
    add({OpKind::Add, OpKind::Sub, OpKind::Mul, OpKind::Div, OpKind::Max, OpKind::Min, OpKind::PRelu, OpKind::Pow,
         OpKind::Equal, OpKind::Greater, OpKind::GreaterOrEqual, OpKind::Less, OpKind::LessOrEqual},
        &binary_loops);
  }

  // After all others.
  void add_widened() {
    for (std::vector<KernelFactory>& factories : factories_) {
      if (!factories.empty()) factories.push_back(&widened);
    }
    factories_[static_cast<size_t>(OpKind::Cast)].pop_back();         // its types are what it is about,
    factories_[static_cast<size_t>(OpKind::Elementwise)].pop_back();  // and every step of a program rounds
  }

  std::array<std::vector<KernelFactory>, kOpCount> factories_;
};

const Table& table() {
  static const Table kTable;
  return kTable;
}

}  // namespace

bool has_fast_kernel(OpKind op) {
  return !table().of(op).empty();
}

executor::KernelOrReason find_kernel(const executor::NodeSpec& node) {
  std::string reasons;
  for (const KernelFactory factory : table().of(node.op)) {
    executor::KernelOrReason found = factory(node);
    if (found.kernel != nullptr) {
      found.reason = std::move(reasons);
      return found;
    }
    if (found.reason.empty()) continue;
    reasons += (reasons.empty() ? "" : "; ") + found.reason;
  }
  if (reasons.empty()) reasons = "the CPU backend has no faster kernel for this operator";
  return {nullptr, std::move(reasons)};
}

}  // namespace mpc::cpu
