// Batch normalization of training and its gradient by the graph API of cuDNN: one operation is one graph. The moving
// statistics are the plugin's own: cuDNN documents the sample variance there (divisor n - 1), ONNX that of the
// population.

#include <vector>

#include "executor/cuda/cudnn_graph.h"
#include "executor/cuda/data.h"

namespace mpc::cuda {
namespace {

/// x (N, C, d1...) is (N, C, d1 d2..., 1) to cuDNN: the engines know four dimensions, and it is the same.
std::vector<int64_t> planes_of(const Shape& x) {
  return {x[0], x[1], x.elements(2, x.rank()), 1};
}

/// Operands of the operation in the order in which they are given to it.
class Operands {
 public:
  using Id = CudnnGraph::Id;
  explicit Operands(const Shape& x) : planes_(planes_of(x)), channels_({1, x[1], 1, 1}) {}

  /// A tensor as large as x, or with one number per channel.
  void add(CudnnGraph& graph, CudnnDescriptor& operation, cudnnBackendAttributeName_t name,
           const executor::NodeSpec::Operand& operand) {
    const std::vector<int64_t>& dims = operand.shape.rank() == 1 ? channels_ : planes_;
    ids_.push_back(graph.tensor(dims, dense_steps(dims), cudnn_type(operand.dtype)));
    operation.set_one(name, graph.at(ids_.back()));
  }
  void add_number(CudnnGraph& graph, CudnnDescriptor& operation, cudnnBackendAttributeName_t name) {
    ids_.push_back(graph.number(planes_.size(), CUDNN_DATA_FLOAT));
    operation.set_one(name, graph.at(ids_.back()));
  }
  const std::vector<Id>& ids() const { return ids_; }

 private:
  std::vector<int64_t> planes_;
  std::vector<int64_t> channels_;
  std::vector<Id> ids_;
};

constexpr cudnnBackendNormMode_t kMode = CUDNN_BATCH_NORM;

class TrainingKernel final : public CudnnKernel {
 public:
  TrainingKernel(const executor::NodeSpec& node, const CudnnTarget& target, CudnnExactness exactness)
      : handle_(target.handle),
        operands_(node.inputs[0].shape),
        epsilon_(static_cast<float>(node.attributes->number("epsilon"))),
        moving_(node) {
    const cudnnBackendNormFwdPhase_t phase = CUDNN_NORM_FWD_TRAINING;
    CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR);
    operation.set(CUDNN_ATTR_OPERATION_NORM_FWD_MODE, CUDNN_TYPE_NORM_MODE, 1, &kMode);
    operation.set(CUDNN_ATTR_OPERATION_NORM_FWD_PHASE, CUDNN_TYPE_NORM_FWD_PHASE, 1, &phase);
    const auto add = [&](cudnnBackendAttributeName_t name, const executor::NodeSpec::Operand& operand) {
      operands_.add(graph_, operation, name, operand);
    };
    add(CUDNN_ATTR_OPERATION_NORM_FWD_XDESC, node.inputs[0]);
    add(CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC, node.inputs[1]);
    add(CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC, node.inputs[2]);
    operands_.add_number(graph_, operation, CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC);
    add(CUDNN_ATTR_OPERATION_NORM_FWD_YDESC, node.outputs[0]);
    add(CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC, node.outputs[3]);
    add(CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC, node.outputs[4]);
    graph_.add(std::move(operation));
    graph_.finish(target);
    plan_ = make_cudnn_plan(graph_, target, exactness);
  }
  const std::string& reason() const override { return plan_.reason; }

  void run(const Launch& launch) override {
    MPC_DNN(cudnnSetStream(handle_, static_cast<cudaStream_t>(launch.stream.handle)));
    plan_.run(handle_, operands_.ids(),
              {launch.inputs[0], launch.inputs[1], launch.inputs[2], &epsilon_, launch.outputs[0], launch.outputs[3],
               launch.outputs[4]},
              launch.workspace);
    moving_.run(launch);
  }
  int64_t workspace_bytes() const override { return plan_.workspace_bytes; }
  std::string_view name() const override { return "cuda:cudnn batch normalization"; }

 private:
  cudnnHandle_t handle_;
  Operands operands_;
  float epsilon_;
  MovingStatistics moving_;
  CudnnGraph graph_;
  CudnnPlan plan_;
};

class GradKernel final : public CudnnKernel {
 public:
  GradKernel(const executor::NodeSpec& node, const CudnnTarget& target, CudnnExactness exactness)
      : handle_(target.handle), operands_(node.inputs[1].shape) {
    CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR);
    operation.set(CUDNN_ATTR_OPERATION_NORM_BWD_MODE, CUDNN_TYPE_NORM_MODE, 1, &kMode);
    const auto add = [&](cudnnBackendAttributeName_t name, const executor::NodeSpec::Operand& operand) {
      operands_.add(graph_, operation, name, operand);
    };
    add(CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC, node.inputs[0]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_XDESC, node.inputs[1]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC, node.inputs[2]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC, node.inputs[3]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC, node.inputs[4]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC, node.outputs[0]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC, node.outputs[1]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC, node.outputs[2]);
    graph_.add(std::move(operation));
    graph_.finish(target);
    plan_ = make_cudnn_plan(graph_, target, exactness);
  }
  const std::string& reason() const override { return plan_.reason; }

  void run(const Launch& launch) override {
    MPC_DNN(cudnnSetStream(handle_, static_cast<cudaStream_t>(launch.stream.handle)));
    std::vector<void*> pointers(launch.inputs.begin(), launch.inputs.end());
    pointers.insert(pointers.end(), launch.outputs.begin(), launch.outputs.end());
    plan_.run(handle_, operands_.ids(), pointers, launch.workspace);
  }
  int64_t workspace_bytes() const override { return plan_.workspace_bytes; }
  std::string_view name() const override { return "cuda:cudnn batch normalization gradient"; }

 private:
  cudnnHandle_t handle_;
  Operands operands_;
  CudnnGraph graph_;
  CudnnPlan plan_;
};

}  // namespace

std::string why_no_cudnn_normalization(const executor::NodeSpec& node) {
  const bool is_forward = node.op == OpKind::BatchNormalizationTraining;
  const executor::NodeSpec::Operand& x = node.inputs[is_forward ? 0 : 1];
  if (!is_small_float(x.dtype)) return "cuDNN: only f32, f16 and bf16";
  if (x.shape.elements() == 0) return "cuDNN: an operand is empty";
  for (size_t i = is_forward ? 1 : 2; i < 5; ++i) {
    if (!has_input(node, i)) return "cuDNN: the gradient needs the batch's mean and deviation";
    if (node.inputs[i].dtype != DType::f32) return "cuDNN: numbers of channels only in f32";
  }
  for (const size_t i : is_forward ? std::vector<size_t>{0, 3, 4} : std::vector<size_t>{0, 1, 2}) {
    if (!has_output(node, i)) return "cuDNN: a result that it always gives is not asked for";
  }
  return {};
}

std::unique_ptr<CudnnKernel> make_cudnn_normalization(const executor::NodeSpec& node, const CudnnTarget& target,
                                                      CudnnExactness exactness) {
  if (node.op == OpKind::BatchNormalizationTraining) {
    return std::make_unique<TrainingKernel>(node, target, exactness);
  }
  return std::make_unique<GradKernel>(node, target, exactness);
}

}  // namespace mpc::cuda
