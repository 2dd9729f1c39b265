// Batch normalization of training and its gradient by the graph API of cuDNN: one operation is one graph. The moving
// statistics are the plugin's own: cuDNN documents the sample variance there (divisor n - 1), ONNX that of the
// population.

#include <utility>
#include <vector>

#include "executor/cuda/cudnn_graph.h"
#include "executor/cuda/data.h"

namespace mpc::cuda {
namespace {

/// x (N, C, d1...) is (N, C, d1 d2..., 1) to cuDNN: the engines know four dimensions, and it is the same. Rows (N, C)
/// are the positions of one image with its channels last.
std::vector<int64_t> planes_of(const Shape& x) {
  if (x.rank() == 2) return {1, x[1], x[0], 1};
  return {x[0], x[1], x.elements(2, x.rank()), 1};
}

/// One operation as a graph of its own. A derived class adds its operands, in the order in which it gives their memory,
/// and finishes it.
class NormalizationKernel : public CudnnKernel {
 public:
  const std::string& reason() const override { return plan_.reason; }
  int64_t workspace_bytes() const override { return plan_.workspace_bytes; }

 protected:
  NormalizationKernel(cudnnBackendDescriptorType_t operation, cudnnBackendAttributeName_t mode, const Shape& x,
                      const CudnnTarget& target)
      : handle_(target.handle),
        operation_(operation),
        planes_(planes_of(x)),
        planes_steps_(x.rank() == 2 ? channels_last_steps(planes_) : dense_steps(planes_)),
        channels_({1, x[1], 1, 1}) {
    constexpr cudnnBackendNormMode_t kMode = CUDNN_BATCH_NORM;
    operation_.set(mode, CUDNN_TYPE_NORM_MODE, 1, &kMode);
  }

  CudnnDescriptor& operation() { return operation_; }
  /// A tensor as large as x, or with one number per channel.
  void add(cudnnBackendAttributeName_t name, const executor::NodeSpec::Operand& operand) {
    const bool is_per_channel = operand.shape.rank() == 1;
    ids_.push_back(graph_.tensor(is_per_channel ? channels_ : planes_,
                                 is_per_channel ? dense_steps(channels_) : planes_steps_, cudnn_type(operand.dtype)));
    operation_.set_one(name, graph_.at(ids_.back()));
  }
  void add_number(cudnnBackendAttributeName_t name) {
    ids_.push_back(graph_.number(planes_.size(), CUDNN_DATA_FLOAT));
    operation_.set_one(name, graph_.at(ids_.back()));
  }
  void finish(const CudnnTarget& target, CudnnExactness exactness) {
    graph_.add(std::move(operation_));
    graph_.finish(target);
    plan_ = make_cudnn_plan(graph_, target, exactness);
  }
  void run_with(const std::vector<void*>& pointers, const Launch& launch) {
    MPC_DNN(cudnnSetStream(handle_, static_cast<cudaStream_t>(launch.stream.handle)));
    plan_.run(handle_, ids_, pointers, launch.workspace);
  }

 private:
  cudnnHandle_t handle_;
  CudnnGraph graph_;
  CudnnDescriptor operation_;  // until it is finished
  std::vector<int64_t> planes_;
  std::vector<int64_t> planes_steps_;
  std::vector<int64_t> channels_;
  std::vector<CudnnGraph::Id> ids_;
  CudnnPlan plan_;
};

class TrainingKernel final : public NormalizationKernel {
 public:
  TrainingKernel(const executor::NodeSpec& node, const CudnnTarget& target, CudnnExactness exactness)
      : NormalizationKernel(CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_NORM_FWD_MODE,
                            node.inputs[0].shape, target),
        epsilon_(static_cast<float>(node.attributes->number("epsilon"))),
        moving_(node) {
    constexpr cudnnBackendNormFwdPhase_t kPhase = CUDNN_NORM_FWD_TRAINING;
    operation().set(CUDNN_ATTR_OPERATION_NORM_FWD_PHASE, CUDNN_TYPE_NORM_FWD_PHASE, 1, &kPhase);
    add(CUDNN_ATTR_OPERATION_NORM_FWD_XDESC, node.inputs[0]);
    add(CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC, node.inputs[1]);
    add(CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC, node.inputs[2]);
    add_number(CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC);
    add(CUDNN_ATTR_OPERATION_NORM_FWD_YDESC, node.outputs[0]);
    add(CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC, node.outputs[3]);
    add(CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC, node.outputs[4]);
    finish(target, exactness);
  }

  void run(const Launch& launch) override {
    run_with({launch.inputs[0], launch.inputs[1], launch.inputs[2], &epsilon_, launch.outputs[0], launch.outputs[3],
              launch.outputs[4]},
             launch);
    moving_.run(launch);
  }
  std::string_view name() const override { return "cuda:cudnn batch normalization"; }

 private:
  float epsilon_;
  MovingStatistics moving_;
};

class GradKernel final : public NormalizationKernel {
 public:
  GradKernel(const executor::NodeSpec& node, const CudnnTarget& target, CudnnExactness exactness)
      : NormalizationKernel(CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_NORM_BWD_MODE,
                            node.inputs[1].shape, target) {
    add(CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC, node.inputs[0]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_XDESC, node.inputs[1]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC, node.inputs[2]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC, node.inputs[3]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC, node.inputs[4]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC, node.outputs[0]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC, node.outputs[1]);
    add(CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC, node.outputs[2]);
    finish(target, exactness);
  }

  void run(const Launch& launch) override {
    std::vector<void*> pointers(launch.inputs.begin(), launch.inputs.end());
    pointers.insert(pointers.end(), launch.outputs.begin(), launch.outputs.end());
    run_with(pointers, launch);
  }
  std::string_view name() const override { return "cuda:cudnn batch normalization gradient"; }
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
