// Attention by cuDNN: the patterns of operations that its fused engines know (flash attention, arXiv:2307.08691). The
// gradient is the deterministic one, which keeps the gradient of the scores in the workspace instead of adding to dq in
// any order.

#include <array>
#include <limits>
#include <vector>

#include "executor/cuda/cudnn_graph.h"
#include "executor/cuda/data.h"

namespace mpc::cuda {
namespace {

using Id = CudnnGraph::Id;
using Dims = std::vector<int64_t>;

constexpr size_t kRank = 4;
constexpr int64_t kWorkspaceAlignment = 256;

/// A score that counts for nothing, as engines of this version of cuDNN want it (NVIDIA/cudnn-frontend,
/// score_modifiers: before 9.10 they take no infinity).
float masked_score() {
  constexpr size_t kTakesInfinity = 91000;
  const bool takes_infinity = cudnn_api().cudnnGetVersion() >= kTakesInfinity;
  return takes_infinity ? -std::numeric_limits<float>::infinity() : std::numeric_limits<float>::lowest();
}

int64_t aligned(int64_t bytes) {
  return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

/// A tensor (batch, sequence, heads, width) as cuDNN wants it: (batch, heads, sequence, width).
struct View {
  explicit View(const Shape& s) : dims{s[0], s[2], s[1], s[3]}, steps{s[1] * s[2] * s[3], s[3], s[2] * s[3], 1} {}
  View transposed() const {
    View result = *this;
    std::swap(result.dims[2], result.dims[3]);
    std::swap(result.steps[2], result.steps[3]);
    return result;
  }
  Dims dims;
  Dims steps;
};

/// The operations of both directions, over q, k and v at `first` of the node.
class Builder {
 public:
  Builder(CudnnGraph& graph, const executor::NodeSpec& node, size_t first)
      : graph_(graph),
        type_(cudnn_type(node.inputs[first].dtype)),
        q_(node.inputs[first].shape),
        is_causal_(node.attributes->flag("is_causal")) {
    const Shape& k = node.inputs[first + 1].shape;
    scores_ = {q_.dims[0], q_.dims[1], q_.dims[2], k[1]};
    rows_ = {q_.dims[0], q_.dims[1], q_.dims[2], 1};
  }

  cudnnDataType_t type() const { return type_; }
  Id in_memory(const View& view) { return graph_.tensor(view.dims, view.steps, type_); }
  /// One number per query, in memory: (batch, heads, sequence, 1) in f32.
  Id row_numbers() { return graph_.tensor(rows_, dense_steps(rows_), CUDNN_DATA_FLOAT); }
  Id scores(cudnnDataType_t type = CUDNN_DATA_FLOAT) { return graph_.between(scores_, dense_steps(scores_), type); }
  Id rows() { return graph_.between(rows_, dense_steps(rows_), CUDNN_DATA_FLOAT); }
  /// The transpose of a tensor of scores, in 16 bits.
  Id transposed_scores(Id x) {
    const Dims steps = dense_steps(scores_);
    const Id y =
        graph_.between({scores_[0], scores_[1], scores_[3], scores_[2]}, {steps[0], steps[1], 1, steps[2]}, type_);
    graph_.reshape(x, y);
    return y;
  }

  Id apply(cudnnPointwiseMode_t mode, Id x, Id b, Id y) {
    graph_.pointwise({.mode = mode, .x = x, .b = b, .y = y});
    return y;
  }
  Id apply(cudnnPointwiseMode_t mode, Id x, Id y) {
    graph_.pointwise({.mode = mode, .x = x, .y = y});
    return y;
  }

  /// Scores of keys after the query become `lowest`.
  Id masked(Id x, Id lowest) {
    if (!is_causal_) return x;
    const Id row = scores(CUDNN_DATA_INT32);
    const Id column = scores(CUDNN_DATA_INT32);
    const Id may_look = scores(CUDNN_DATA_BOOLEAN);
    const Id y = scores();
    graph_.pointwise({.mode = CUDNN_POINTWISE_GEN_INDEX, .x = x, .y = row, .axis = 2});
    graph_.pointwise({.mode = CUDNN_POINTWISE_GEN_INDEX, .x = x, .y = column, .axis = 3});
    graph_.pointwise(
        {.mode = CUDNN_POINTWISE_CMP_GE, .x = row, .b = column, .y = may_look, .compute = CUDNN_DATA_BOOLEAN});
    graph_.pointwise({.mode = CUDNN_POINTWISE_BINARY_SELECT, .x = x, .b = lowest, .t = may_look, .y = y});
    return y;
  }
  bool is_causal() const { return is_causal_; }

 private:
  CudnnGraph& graph_;
  cudnnDataType_t type_;
  View q_;
  bool is_causal_;
  Dims scores_, rows_;
};

class AttentionKernel final : public CudnnKernel {
 public:
  AttentionKernel(const executor::NodeSpec& node, const CudnnTarget& target, CudnnExactness exactness)
      : handle_(target.handle),
        is_forward_(node.op == OpKind::ScaledDotProductAttention),
        scale_(static_cast<float>(node.attributes->number("scale"))) {
    is_forward_ ? build_forward(node) : build_gradient(node);
    graph_.finish(target);
    plan_ = make_cudnn_plan(graph_, target, exactness);
  }
  const std::string& reason() const override { return plan_.reason; }

  void run(const Launch& launch) override {
    MPC_DNN(cudnnSetStream(handle_, static_cast<cudaStream_t>(launch.stream.handle)));
    std::vector<void*> pointers = {&scale_};
    if (lowest_ != 0) pointers.push_back(&lowest_number_);
    if (one_ != 0) pointers.push_back(&one_number_);
    std::byte* const extra = static_cast<std::byte*>(launch.workspace) + aligned(plan_.workspace_bytes);
    for (const Bound& bound : bound_) {
      void* const pointer = bound.is_input ? launch.inputs[bound.at] : launch.out<void>(bound.at);
      pointers.push_back(pointer != nullptr ? pointer : extra + bound.extra_offset);
    }
    if (sums_ != 0) pointers.push_back(extra);
    plan_.run(handle_, ids_, pointers, launch.workspace);
  }
  int64_t workspace_bytes() const override { return aligned(plan_.workspace_bytes) + extra_bytes_; }
  std::string_view name() const override { return "cuda:cudnn attention"; }

 private:
  /// An operand of the node in the graph. A result that nobody asked for is written to the workspace.
  struct Bound {
    Id id = 0;
    size_t at = 0;
    bool is_input = true;
    int64_t extra_offset = 0;
  };

  void build_forward(const executor::NodeSpec& node) {
    Builder build(graph_, node, 0);
    make_numbers(build);
    const Id q = bind_input(build.in_memory(View(node.inputs[0].shape)), 0);
    const Id k = bind_input(build.in_memory(View(node.inputs[1].shape).transposed()), 1);
    const Id v = bind_input(build.in_memory(View(node.inputs[2].shape)), 2);
    const Id y = bind_output(build.in_memory(View(node.outputs[0].shape)), 0, node);
    const Id product = build.scores();
    graph_.matmul(q, k, product);
    const Id scaled = build.apply(CUDNN_POINTWISE_MUL, product, scale_id_, build.scores());
    const Id scores = build.masked(scaled, lowest_);
    const Id largest = build.rows();
    graph_.reduce(CUDNN_REDUCE_TENSOR_MAX, scores, largest);
    const Id shifted = build.apply(CUDNN_POINTWISE_SUB, scores, largest, build.scores());
    const Id powers = build.apply(CUDNN_POINTWISE_EXP, shifted, build.scores());
    const Id sum = build.rows();
    graph_.reduce(CUDNN_REDUCE_TENSOR_ADD, powers, sum);
    const Id log = build.apply(CUDNN_POINTWISE_LOG, sum, build.rows());
    const bool has_sums = has_output(node, 1);
    const Id log_sum = has_sums ? bind_output(build.row_numbers(), 1, node) : build.rows();
    build.apply(CUDNN_POINTWISE_ADD, largest, log, log_sum);
    const Id p = build.apply(CUDNN_POINTWISE_DIV, powers, sum, build.scores(build.type()));
    graph_.matmul(p, v, y);
    collect_ids();
  }

  void build_gradient(const executor::NodeSpec& node) {
    Builder build(graph_, node, 1);
    make_numbers(build);
    one_ = graph_.number(kRank, CUDNN_DATA_FLOAT);
    const Id dy = bind_input(build.in_memory(View(node.inputs[0].shape)), 0);
    const Id q = bind_input(build.in_memory(View(node.inputs[1].shape)), 1);
    const View k_view(node.inputs[2].shape);
    const Id k = bind_input(build.in_memory(k_view.transposed()), 2);
    const Id v = bind_input(build.in_memory(View(node.inputs[3].shape).transposed()), 3);
    const Id y = bind_input(build.in_memory(View(node.inputs[4].shape)), 4);
    const Id log_sum = bind_input(build.row_numbers(), 5);
    // The sums of dy y begin the extra workspace.
    const Shape& rows = node.inputs[5].shape;
    extra_bytes_ = aligned(rows.elements() * static_cast<int64_t>(sizeof(float)));
    const Id dq = bind_output(build.in_memory(View(node.inputs[1].shape)), 0, node, node.inputs[1]);
    const Id dk = bind_output(build.in_memory(k_view), 1, node, node.inputs[2]);
    const Id dv = bind_output(build.in_memory(View(node.inputs[3].shape)), 2, node, node.inputs[3]);
    sums_ = build.row_numbers();

    const View y_view(node.inputs[4].shape);
    const Id dy_y =
        build.apply(CUDNN_POINTWISE_MUL, dy, y, graph_.between(y_view.dims, y_view.steps, CUDNN_DATA_FLOAT));
    const Id dy_y_sum = build.rows();
    graph_.reduce(CUDNN_REDUCE_TENSOR_ADD, dy_y, dy_y_sum);
    build.apply(CUDNN_POINTWISE_MUL, dy_y_sum, one_, sums_);

    const Id product = build.scores();
    graph_.matmul(q, k, product);
    const Id scaled = build.apply(CUDNN_POINTWISE_MUL, product, scale_id_, build.scores());
    const Id shifted = build.apply(CUDNN_POINTWISE_SUB, scaled, log_sum, build.scores());
    const Id p = build.apply(CUDNN_POINTWISE_EXP, build.masked(shifted, lowest_), build.scores());
    graph_.matmul(build.transposed_scores(p), dy, dv);

    const Id dp = build.scores();
    graph_.matmul(dy, v, dp);
    const Id centered = build.apply(CUDNN_POINTWISE_SUB, dp, sums_, build.scores());
    const Id ds = build.apply(CUDNN_POINTWISE_MUL, centered, p, build.scores());
    const Id scaled_ds = build.apply(CUDNN_POINTWISE_MUL, ds, scale_id_, build.scores());
    graph_.matmul(build.transposed_scores(scaled_ds), q, dk);

    const Id k_rows = graph_.between(k_view.dims, k_view.steps, build.type());
    graph_.reshape(k, k_rows);
    graph_.matmul(scaled_ds, k_rows, dq);
    collect_ids();
  }

  void make_numbers(const Builder& build) {
    scale_id_ = graph_.number(kRank, CUDNN_DATA_FLOAT);
    if (build.is_causal()) lowest_ = graph_.number(kRank, CUDNN_DATA_FLOAT);
  }
  Id bind_input(Id id, size_t at) {
    bound_.push_back({id, at, true, 0});
    return id;
  }
  Id bind_output(Id id, size_t at, const executor::NodeSpec& node, const executor::NodeSpec::Operand& like = {}) {
    bound_.push_back({id, at, false, extra_bytes_});
    if (!has_output(node, at)) extra_bytes_ += aligned(byte_size(like.shape, like.dtype));
    return id;
  }
  /// In the order in which run() gives pointers.
  void collect_ids() {
    ids_ = {scale_id_};
    if (lowest_ != 0) ids_.push_back(lowest_);
    if (one_ != 0) ids_.push_back(one_);
    for (const Bound& bound : bound_) ids_.push_back(bound.id);
    if (sums_ != 0) ids_.push_back(sums_);
  }

  cudnnHandle_t handle_;
  bool is_forward_;
  float scale_;
  float lowest_number_ = masked_score();
  float one_number_ = 1;
  Id scale_id_ = 0;
  Id lowest_ = 0;  // these three may not be in the graph
  Id one_ = 0;
  Id sums_ = 0;
  std::vector<Bound> bound_;
  std::vector<Id> ids_;
  int64_t extra_bytes_ = 0;
  CudnnGraph graph_;
  CudnnPlan plan_;
};

}  // namespace

std::string why_no_cudnn_attention(const executor::NodeSpec& node) {
  const size_t first = node.op == OpKind::ScaledDotProductAttention ? 0 : 1;
  const DType dtype = node.inputs[first].dtype;
  // In f32 its engines round the operands to TF32, and its gradient has none.
  if (dtype != DType::f16 && dtype != DType::bf16) return "cuDNN: attention only in f16 and bf16";
  for (const auto* operands : {&node.inputs, &node.outputs}) {
    for (const auto& operand : *operands) {
      if (operand.is_present && operand.shape.elements() == 0) return "cuDNN: an operand is empty";
    }
  }
  return {};
}

std::unique_ptr<CudnnKernel> make_cudnn_attention(const executor::NodeSpec& node, const CudnnTarget& target,
                                                  CudnnExactness exactness) {
  return std::make_unique<AttentionKernel>(node, target, exactness);
}

}  // namespace mpc::cuda
