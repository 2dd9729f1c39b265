// Attention by cuDNN: the patterns of operations that its fused engines know (flash attention, arXiv:2307.08691). The
// gradient is the deterministic one, which keeps the gradient of the scores in the workspace instead of adding to dq in
// any order.

#include <array>
#include <limits>
#include <vector>

#include "compiler/base/attention_parts.h"
#include "executor/cuda/cudnn_graph.h"
#include "executor/cuda/data.h"

namespace mpc::cuda {
namespace {

using Id = CudnnGraph::Id;
using Dims = std::vector<int64_t>;

constexpr size_t kRank = 4;
constexpr int64_t kWorkspaceAlignment = 256;
/// What its engines need; k and v of a packed operand begin within it.
constexpr int64_t kPartAlignment = 16;

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

/// A tensor (batch, sequence, heads, width), or where one lies in another, as cuDNN wants it: (batch, heads, sequence,
/// width).
struct View {
  explicit View(const AttentionPart& part)
      : dims{part.shape[0], part.shape[2], part.shape[1], part.shape[3]},
        steps{part.batch_step(), part.shape[3], part.step, 1} {}
  explicit View(const Shape& shape) : View(whole_attention_part(shape)) {}
  View transposed() const {
    View result = *this;
    std::swap(result.dims[2], result.dims[3]);
    std::swap(result.steps[2], result.steps[3]);
    return result;
  }
  Dims dims;
  Dims steps;
};

/// q, k and v at `first` of the node's operands.
std::array<AttentionPart, kAttentionParts> parts_of(const executor::NodeSpec& node, size_t first) {
  return attention_parts([&](size_t i) -> const Shape& { return node.inputs[first + i].shape; });
}

/// The operations of both directions, over q, k and v at `first` of the node.
class Builder {
 public:
  Builder(CudnnGraph& graph, const executor::NodeSpec& node, size_t first)
      : graph_(graph),
        type_(cudnn_type(node.inputs[first].dtype)),
        q_(parts_of(node, first)[0]),
        is_causal_(node.attributes->flag("is_causal")) {
    const Shape k = parts_of(node, first)[1].shape;
    scores_ = {q_.dims[0], q_.dims[1], q_.dims[2], k[1]};
    rows_ = {q_.dims[0], q_.dims[1], q_.dims[2], 1};
  }

  cudnnDataType_t type() const { return type_; }
  Id in_memory(const View& view) { return graph_.tensor(view.dims, view.steps, type_, kPartAlignment); }
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
      const void* const operand = bound.is_input ? launch.inputs[bound.at] : launch.out<void>(bound.at);
      std::byte* const begin = static_cast<std::byte*>(const_cast<void*>(operand));
      pointers.push_back(begin != nullptr ? begin + bound.offset : extra + bound.offset);
    }
    if (sums_ != 0) pointers.push_back(extra);
    plan_.run(handle_, ids_, pointers, launch.workspace);
  }
  int64_t workspace_bytes() const override { return aligned(plan_.workspace_bytes) + extra_bytes_; }
  std::string_view name() const override { return "cuda:cudnn attention"; }

 private:
  /// An operand of the node in the graph, or a part of one. A result that nobody asked for is written to the workspace.
  struct Bound {
    Id id = 0;
    size_t at = 0;
    bool is_input = true;
    int64_t offset = 0;  // bytes, from its begin
  };

  void build_forward(const executor::NodeSpec& node) {
    Builder build(graph_, node, 0);
    make_numbers(build);
    const auto parts = parts_of(node, 0);
    const DType dtype = node.inputs[0].dtype;
    const Id q = bind_part(build.in_memory(View(parts[0])), 0, parts[0], dtype);
    const Id k = bind_part(build.in_memory(View(parts[1]).transposed()), 0, parts[1], dtype);
    const Id v = bind_part(build.in_memory(View(parts[2])), 0, parts[2], dtype);
    const Id y = bind_output(build.in_memory(View(node.outputs[0].shape)), 0);
    const Id product = build.scores();
    graph_.matmul(q, k, product);
    const Id scaled = build.apply(CUDNN_POINTWISE_MUL, product, scale_id_, build.scores());
    const Id scores = build.masked(with_mask(build, scaled, node, attention_operands(node.inputs[0].shape)), lowest_);
    const Id largest = build.rows();
    graph_.reduce(CUDNN_REDUCE_TENSOR_MAX, scores, largest);
    const Id shifted = build.apply(CUDNN_POINTWISE_SUB, scores, largest, build.scores());
    const Id powers = build.apply(CUDNN_POINTWISE_EXP, shifted, build.scores());
    const Id sum = build.rows();
    graph_.reduce(CUDNN_REDUCE_TENSOR_ADD, powers, sum);
    const Id log = build.apply(CUDNN_POINTWISE_LOG, sum, build.rows());
    const bool has_sums = has_output(node, 1);
    const Id log_sum = has_sums ? bind_output(build.row_numbers(), 1) : build.rows();
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
    constexpr size_t kFirst = 1;
    const size_t end = kFirst + attention_operands(node.inputs[kFirst].shape);
    const auto parts = parts_of(node, kFirst);
    const DType dtype = node.inputs[kFirst].dtype;
    const View k_view(parts[1]);
    const Id q = bind_part(build.in_memory(View(parts[0])), kFirst, parts[0], dtype);
    const Id k = bind_part(build.in_memory(k_view.transposed()), kFirst, parts[1], dtype);
    const Id v = bind_part(build.in_memory(View(parts[2]).transposed()), kFirst, parts[2], dtype);
    const View y_view(node.inputs[end].shape);
    const Id y = bind_input(build.in_memory(y_view), end);
    const Id log_sum = bind_input(build.row_numbers(), end + 1);
    // The sums of dy y begin the extra workspace.
    const Shape& rows = node.inputs[end + 1].shape;
    extra_bytes_ = aligned(rows.elements() * static_cast<int64_t>(sizeof(float)));
    const Id dq = bind_grad(build.in_memory(View(parts[0])), node, parts[0], dtype);
    const Id dk = bind_grad(build.in_memory(k_view), node, parts[1], dtype);
    const Id dv = bind_grad(build.in_memory(View(parts[2])), node, parts[2], dtype);
    sums_ = build.row_numbers();

    const Id dy_y =
        build.apply(CUDNN_POINTWISE_MUL, dy, y, graph_.between(y_view.dims, y_view.steps, CUDNN_DATA_FLOAT));
    const Id dy_y_sum = build.rows();
    graph_.reduce(CUDNN_REDUCE_TENSOR_ADD, dy_y, dy_y_sum);
    build.apply(CUDNN_POINTWISE_MUL, dy_y_sum, one_, sums_);

    const Id product = build.scores();
    graph_.matmul(q, k, product);
    const Id scaled = build.apply(CUDNN_POINTWISE_MUL, product, scale_id_, build.scores());
    const Id scores = with_mask(build, scaled, node, end + 2);
    const Id shifted = build.apply(CUDNN_POINTWISE_SUB, scores, log_sum, build.scores());
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

  /// The scores and what is added to them, which is operand `at` of the node where it is there.
  Id with_mask(Builder& build, Id scores, const executor::NodeSpec& node, size_t at) {
    if (!has_input(node, at)) return scores;
    const Dims dims = node.inputs[at].shape.to_vector();
    const Id mask = bind_input(graph_.tensor(dims, dense_steps(dims), CUDNN_DATA_FLOAT), at);
    return build.apply(CUDNN_POINTWISE_ADD, scores, mask, build.scores());
  }
  void make_numbers(const Builder& build) {
    scale_id_ = graph_.number(kRank, CUDNN_DATA_FLOAT);
    if (build.is_causal()) lowest_ = graph_.number(kRank, CUDNN_DATA_FLOAT);
  }
  Id bind_input(Id id, size_t at) {
    bound_.push_back({id, at, true, 0});
    return id;
  }
  Id bind_output(Id id, size_t at) {
    bound_.push_back({id, at, false, 0});
    return id;
  }
  static int64_t offset_of(const AttentionPart& part, DType dtype) { return part.begin * dtype_bytes(dtype); }
  Id bind_part(Id id, size_t first, const AttentionPart& part, DType dtype) {
    bound_.push_back({id, first + part.operand, true, offset_of(part, dtype)});
    return id;
  }
  Id bind_grad(Id id, const executor::NodeSpec& node, const AttentionPart& part, DType dtype) {
    const bool is_wanted = has_output(node, part.operand);
    bound_.push_back({id, part.operand, false, is_wanted ? offset_of(part, dtype) : extra_bytes_});
    if (!is_wanted) extra_bytes_ += aligned(byte_size(part.shape, dtype));
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
  for (const AttentionPart& part : parts_of(node, first)) {
    if (part.begin * dtype_bytes(dtype) % kPartAlignment != 0) return "cuDNN: q, k and v are not aligned to 16 bytes";
  }
  return {};
}

std::unique_ptr<CudnnKernel> make_cudnn_attention(const executor::NodeSpec& node, const CudnnTarget& target,
                                                  CudnnExactness exactness) {
  return std::make_unique<AttentionKernel>(node, target, exactness);
}

}  // namespace mpc::cuda
