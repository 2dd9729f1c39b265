// What cuDNN is asked for, and in which exactness.

#include "executor/cuda/cudnn_graph.h"
#include "executor/cuda/data.h"
#include "executor/cuda/error.h"
#include "executor/cuda/libraries.h"
#include "executor/cuda/library_kernels.h"

namespace mpc::cuda {
namespace {

/// One family of ops that cuDNN has kernels for.
struct Family {
  std::string (*why_not)(const executor::NodeSpec& node);
  std::unique_ptr<CudnnKernel> (*make)(const executor::NodeSpec& node, const CudnnTarget& target,
                                       CudnnExactness exactness);
};

const Family* family_of(OpKind op) {
  static constexpr Family kConvolution{&why_no_cudnn_convolution, &make_cudnn_convolution};
  static constexpr Family kAttention{&why_no_cudnn_attention, &make_cudnn_attention};
  static constexpr Family kNormalization{&why_no_cudnn_normalization, &make_cudnn_normalization};
  switch (op) {
    case OpKind::Conv:
    case OpKind::ConvInputGrad:
    case OpKind::ConvWeightGrad:
      return &kConvolution;
    case OpKind::ScaledDotProductAttention:
    case OpKind::ScaledDotProductAttentionGrad:
      return &kAttention;
    case OpKind::BatchNormalizationTraining:
    case OpKind::BatchNormalizationGrad:
      return &kNormalization;
    default:
      return nullptr;
  }
}

CudnnExactness exactness_of(const executor::NodeSpec& node, const MakeOptions& options) {
  const bool is_strict = output_dtype(node, 0) == DType::f32 && !options.allows_tf32;
  return is_strict ? CudnnExactness::strict_f32 : CudnnExactness::any;
}

}  // namespace

bool is_for_cudnn(OpKind op) {
  return family_of(op) != nullptr;
}

KernelOrReason cudnn_kernel(const executor::NodeSpec& node, const MakeOptions& options, LibraryHandle& handle) {
  const Library& dnn = library(LibraryName::cudnn);
  if (dnn.handle == nullptr) return declined("cuDNN: " + dnn.path);
  const Family& family = *family_of(node.op);
  if (std::string reason = family.why_not(node); !reason.empty()) return declined(reason);
  if (handle.handle == nullptr) {
    cudnnHandle_t made = nullptr;
    MPC_DNN(cudnnCreate(&made));
    handle.handle = made;
    handle.destroy = [](void* old) { cudnn_api().cudnnDestroy(static_cast<cudnnHandle_t>(old)); };
  }
  static const CodeCache kCache;
  const CudnnTarget target{static_cast<cudnnHandle_t>(handle.handle), nullptr, handle.gpu, &kCache};
  try {
    std::unique_ptr<CudnnKernel> kernel = family.make(node, target, exactness_of(node, options));
    if (!kernel->reason().empty()) return declined(kernel->reason());
    return {std::move(kernel), {}};
  } catch (const DeviceError& error) {
    if (error.is_sticky()) throw;
    return declined(error.what());  // a graph that cuDNN does not take
  }
}

std::string cudnn_refusal(const executor::NodeSpec& node, const MakeOptions& options, const std::string& device_json,
                          const CodeCache* cache) {
  const Library& dnn = library(LibraryName::cudnn);
  if (dnn.handle == nullptr) return "cuDNN: " + dnn.path;
  const Family& family = *family_of(node.op);
  if (std::string reason = family.why_not(node); !reason.empty()) return reason;
  CudnnDescriptor device(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  device.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, static_cast<int64_t>(device_json.size() + 1),
             device_json.c_str());
  device.finalize();
  try {
    return family.make(node, {nullptr, &device, device_json, cache}, exactness_of(node, options))->reason();
  } catch (const DeviceError& error) {
    return error.what();
  }
}

}  // namespace mpc::cuda
