// Convolutions by the graph API of cuDNN: one operation is one graph.

#include <algorithm>
#include <vector>

#include "compiler/base/channels_last.h"
#include "executor/cuda/cudnn_graph.h"
#include "executor/cuda/data.h"

namespace mpc::cuda {
namespace {

/// Dimensions of a tensor with at least two spatial ones: cuDNN's engines know no fewer.
std::vector<int64_t> padded_dims(const Shape& shape) {
  std::vector<int64_t> dims = shape.to_vector();
  if (dims.size() == 3) dims = {dims[0], dims[1], 1, dims[2]};
  return dims;
}

std::vector<int64_t> padded(std::vector<int64_t> values, int64_t filler) {
  if (values.size() == 1) values = {filler, values[0]};
  return values;
}

CudnnDescriptor convolution_of(const Attributes& attributes) {
  const std::vector<int64_t>& strides = attributes.integers("strides");
  const std::vector<int64_t>& pads = attributes.integers("pads");
  const auto middle = pads.begin() + static_cast<int64_t>(strides.size());
  const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  const int64_t spatial = std::max<int64_t>(static_cast<int64_t>(strides.size()), 2);
  CudnnDescriptor result(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  result.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  result.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
  result.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &spatial);
  result.set_integers(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, padded({pads.begin(), middle}, 0));
  result.set_integers(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, padded({middle, pads.end()}, 0));
  result.set_integers(CUDNN_ATTR_CONVOLUTION_DILATIONS, padded(attributes.integers("dilations"), 1));
  result.set_integers(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, padded(strides, 1));
  result.finalize();
  return result;
}

/// The operands of the three operations in the order of the node: two inputs and a result.
struct Names {
  cudnnBackendDescriptorType_t operation;
  cudnnBackendAttributeName_t inputs[2];
  cudnnBackendAttributeName_t result;
  cudnnBackendAttributeName_t convolution;
  cudnnBackendAttributeName_t alpha;
  cudnnBackendAttributeName_t beta;
};

Names names_of(OpKind op) {
  switch (op) {
    case OpKind::Conv:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W},
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
    case OpKind::ConvInputGrad:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W},
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    default:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
              {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X},
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
  }
}

class ConvolutionKernel final : public CudnnKernel {
 public:
  ConvolutionKernel(const executor::NodeSpec& node, const CudnnTarget& target, CudnnExactness exactness)
      : handle_(target.handle) {
    const Names names = names_of(node.op);
    const float alpha = 1;
    const float beta = 0;
    CudnnDescriptor operation(names.operation);
    for (size_t i = 0; i < 2; ++i) operation.set_one(names.inputs[i], graph_.at(add(*node.attributes, node.inputs[i])));
    operation.set_one(names.result, graph_.at(add(*node.attributes, node.outputs[0])));
    operation.set_one(names.convolution, graph_.keep(convolution_of(*node.attributes)));
    operation.set(names.alpha, CUDNN_TYPE_FLOAT, 1, &alpha);
    operation.set(names.beta, CUDNN_TYPE_FLOAT, 1, &beta);
    graph_.add(std::move(operation));
    graph_.finish(target);
    plan_ = make_cudnn_plan(graph_, target, exactness);
    has_bias_ = node.op == OpKind::Conv && has_input(node, 2);
    y_type_ = node.outputs[0].dtype;
    bias_type_ = input_dtype(node, 2);
    y_ = PlaneOrder(*node.attributes, channels_first_shape(*node.attributes, node.outputs[0].shape));
    y_elements_ = node.outputs[0].shape.elements();
  }
  const std::string& reason() const override { return plan_.reason; }

  void run(const Launch& launch) override {
    MPC_DNN(cudnnSetStream(handle_, static_cast<cudaStream_t>(launch.stream.handle)));
    plan_.run(handle_, ids_, {launch.inputs[0], launch.inputs[1], launch.outputs[0]}, launch.workspace);
    if (!has_bias_) return;
    add_channel_bias(launch.stream, launch.outputs[0], y_type_, launch.inputs[2], bias_type_, y_elements_, y_);
  }
  int64_t workspace_bytes() const override { return plan_.workspace_bytes; }
  std::string_view name() const override { return "cuda:cudnn convolution"; }

 private:
  CudnnGraph::Id add(const Attributes& attributes, const executor::NodeSpec::Operand& operand) {
    const std::vector<int64_t> dims = padded_dims(channels_first_shape(attributes, operand.shape));
    const auto steps = is_channels_last(attributes) ? channels_last_steps(dims) : dense_steps(dims);
    ids_.push_back(graph_.tensor(dims, steps, cudnn_type(operand.dtype)));
    return ids_.back();
  }

  cudnnHandle_t handle_;
  std::vector<CudnnGraph::Id> ids_;
  CudnnGraph graph_;
  CudnnPlan plan_;
  bool has_bias_ = false;
  DType y_type_ = DType::f32;
  DType bias_type_ = DType::f32;
  PlaneOrder y_;
  int64_t y_elements_ = 0;
};

}  // namespace

std::string why_no_cudnn_convolution(const executor::NodeSpec& node) {
  const DType dtype = output_dtype(node, 0);
  if (!is_small_float(dtype)) return "cuDNN: only f32, f16 and bf16";
  for (const auto* operands : {&node.inputs, &node.outputs}) {
    for (const auto& operand : *operands) {
      if (!operand.is_present) continue;
      if (operand.dtype != dtype) return "cuDNN: operands are of different types";
      if (operand.shape.elements() == 0) return "cuDNN: an operand is empty";
    }
  }
  const size_t spatial = node.attributes->integers("strides").size();
  if (spatial < 1 || spatial > 3) return "cuDNN: only 1 to 3 spatial dimensions";
  for (const int64_t pad : node.attributes->integers("pads")) {
    if (pad < 0) return "cuDNN: no negative pads";
  }
  return {};
}

std::unique_ptr<CudnnKernel> make_cudnn_convolution(const executor::NodeSpec& node, const CudnnTarget& target,
                                                    CudnnExactness exactness) {
  return std::make_unique<ConvolutionKernel>(node, target, exactness);
}

}  // namespace mpc::cuda
