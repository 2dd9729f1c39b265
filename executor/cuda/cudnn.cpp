// Convolutions by the graph API of cuDNN: one operation is one graph. Engines are taken in the order of cuDNN's
// heuristic, without those that are not deterministic.

#include <cudnn.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "executor/cuda/data.h"
#include "executor/cuda/error.h"
#include "executor/cuda/libraries.h"
#include "executor/cuda/library_kernels.h"

namespace mpc::cuda {
namespace {

struct Api {
#define MPC_CUDNN_FUNCTIONS(X)     \
  X(cudnnCreate)                   \
  X(cudnnDestroy)                  \
  X(cudnnSetStream)                \
  X(cudnnGetErrorString)           \
  X(cudnnBackendCreateDescriptor)  \
  X(cudnnBackendDestroyDescriptor) \
  X(cudnnBackendExecute)           \
  X(cudnnBackendFinalize)          \
  X(cudnnBackendGetAttribute)      \
  X(cudnnBackendSetAttribute)
#define MPC_MEMBER(name) decltype(&::name) name = nullptr;
  MPC_CUDNN_FUNCTIONS(MPC_MEMBER)
#undef MPC_MEMBER

  explicit Api(const Library& library) {
#define MPC_LOAD(name) name = reinterpret_cast<decltype(&::name)>(library_function(library, #name));
    MPC_CUDNN_FUNCTIONS(MPC_LOAD)
#undef MPC_LOAD
  }
};

const Api& api() {
  static const Api kApi(library(LibraryName::cudnn));
  return kApi;
}

void check(cudnnStatus_t status, const char* call, int line) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw_library("cuDNN", static_cast<int>(status), api().cudnnGetErrorString(status), call, __FILE__, line);
}
#define MPC_DNN(call) check(api().call, #call, __LINE__)

/// A descriptor of the graph API, destroyed with the object.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(cudnnBackendDescriptorType_t type) { MPC_DNN(cudnnBackendCreateDescriptor(type, &value_)); }
  ~Descriptor() {
    if (value_ != nullptr) api().cudnnBackendDestroyDescriptor(value_);
  }
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  cudnnBackendDescriptor_t get() const { return value_; }

  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void* values) {
    MPC_DNN(cudnnBackendSetAttribute(value_, name, type, count, values));
  }
  void set_one(cudnnBackendAttributeName_t name, const Descriptor& other) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &other.value_);
  }
  void set_integers(cudnnBackendAttributeName_t name, const std::vector<int64_t>& values) {
    set(name, CUDNN_TYPE_INT64, static_cast<int64_t>(values.size()), values.data());
  }
  void finalize() { MPC_DNN(cudnnBackendFinalize(value_)); }
  cudnnStatus_t try_finalize() { return api().cudnnBackendFinalize(value_); }

 private:
  cudnnBackendDescriptor_t value_ = nullptr;
};

cudnnDataType_t data_type(DType dtype) {
  if (dtype == DType::f16) return CUDNN_DATA_HALF;
  return dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
}

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

Descriptor tensor(const Shape& shape, DType dtype, int64_t id) {
  const std::vector<int64_t> dims = padded_dims(shape);
  std::vector<int64_t> steps(dims.size(), 1);
  for (size_t i = dims.size() - 1; i > 0; --i) steps[i - 1] = steps[i] * dims[i];
  const cudnnDataType_t type = data_type(dtype);
  const int64_t alignment = 256;
  Descriptor result(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  result.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  result.set_integers(CUDNN_ATTR_TENSOR_DIMENSIONS, dims);
  result.set_integers(CUDNN_ATTR_TENSOR_STRIDES, steps);
  result.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
  result.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  result.finalize();
  return result;
}

Descriptor convolution_of(const Attributes& attributes) {
  const std::vector<int64_t>& strides = attributes.integers("strides");
  const std::vector<int64_t>& pads = attributes.integers("pads");
  const auto middle = pads.begin() + static_cast<int64_t>(strides.size());
  const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  const int64_t spatial = std::max<int64_t>(static_cast<int64_t>(strides.size()), 2);
  Descriptor result(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
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

// The ids of the operands in the graph.
constexpr int64_t kFirst = 1;
constexpr int64_t kSecond = 2;
constexpr int64_t kResult = 3;

/// Either a handle (on a GPU) or a description of a device.
struct Target {
  cudnnHandle_t handle = nullptr;
  const Descriptor* device = nullptr;
};

/// What the graph is made of has to live as long as its plan.
struct ConvolutionGraph {
  ConvolutionGraph(const executor::NodeSpec& node, const Target& target)
      : first(tensor(node.inputs[0].shape, node.inputs[0].dtype, kFirst)),
        second(tensor(node.inputs[1].shape, node.inputs[1].dtype, kSecond)),
        result(tensor(node.outputs[0].shape, node.outputs[0].dtype, kResult)),
        convolution(convolution_of(*node.attributes)) {
    const Names names = names_of(node.op);
    operation = Descriptor(names.operation);
    const float alpha = 1;
    const float beta = 0;
    operation.set_one(names.inputs[0], first);
    operation.set_one(names.inputs[1], second);
    operation.set_one(names.result, result);
    operation.set_one(names.convolution, convolution);
    operation.set(names.alpha, CUDNN_TYPE_FLOAT, 1, &alpha);
    operation.set(names.beta, CUDNN_TYPE_FLOAT, 1, &beta);
    operation.finalize();
    graph = Descriptor(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    graph.set_one(CUDNN_ATTR_OPERATIONGRAPH_OPS, operation);
    if (target.handle != nullptr) graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle);
    graph.finalize();
  }

  Descriptor first, second, result, convolution, operation, graph;
};

/// May an engine with these notes be used?
bool is_wanted(Descriptor& config, bool is_strict_f32) {
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t raw = engine.get();
  int64_t found = 0;
  MPC_DNN(cudnnBackendGetAttribute(config.get(), CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &found,
                                   &raw));
  std::vector<cudnnBackendNumericalNote_t> notes(CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  MPC_DNN(cudnnBackendGetAttribute(engine.get(), CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                   static_cast<int64_t>(notes.size()), &found, notes.data()));
  notes.resize(static_cast<size_t>(std::clamp<int64_t>(found, 0, static_cast<int64_t>(notes.size()))));
  const auto has = [&](cudnnBackendNumericalNote_t note) {
    return std::find(notes.begin(), notes.end(), note) != notes.end();
  };
  if (has(CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)) return false;
  if (!is_strict_f32) return true;
  // On f32 operands the matrix units compute in TF32; Winograd and FFT lose digits of their own.
  return !has(CUDNN_NUMERICAL_NOTE_TENSOR_CORE) && !has(CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS) &&
         !has(CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION) && !has(CUDNN_NUMERICAL_NOTE_WINOGRAD) &&
         !has(CUDNN_NUMERICAL_NOTE_FFT);
}

/// An execution plan, or why there is none.
struct PlanOrReason {
  Descriptor plan;
  int64_t workspace_bytes = 0;
  std::string reason;
};

constexpr int64_t kMostConfigs = 64;
constexpr int64_t kMostWorkspace = int64_t{512} << 20;

PlanOrReason make_plan(const ConvolutionGraph& graph, const Target& target, bool is_strict_f32) {
  Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  heuristic.set_one(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.graph);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (target.device != nullptr) heuristic.set_one(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *target.device);
  heuristic.finalize();
  std::vector<Descriptor> configs;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (int64_t i = 0; i < kMostConfigs; ++i) {
    configs.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    raw.push_back(configs.back().get());
  }
  int64_t count = 0;
  MPC_DNN(cudnnBackendGetAttribute(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                   kMostConfigs, &count, raw.data()));
  int unwanted = 0;
  int refused = 0;
  for (int64_t i = 0; i < std::min(count, kMostConfigs); ++i) {
    Descriptor& config = configs[static_cast<size_t>(i)];
    if (!is_wanted(config, is_strict_f32)) {
      ++unwanted;
      continue;
    }
    PlanOrReason result{Descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR), 0, {}};
    result.plan.set_one(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    if (target.handle != nullptr) {
      result.plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle);
    }
    if (target.device != nullptr) result.plan.set_one(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *target.device);
    if (result.plan.try_finalize() != CUDNN_STATUS_SUCCESS) {
      ++refused;
      continue;
    }
    int64_t found = 0;
    MPC_DNN(cudnnBackendGetAttribute(result.plan.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                     &found, &result.workspace_bytes));
    if (result.workspace_bytes <= kMostWorkspace) return result;
    ++refused;
  }
  return {{},
          0,
          "cuDNN: of " + std::to_string(count) + " engines " + std::to_string(unwanted) +
              " are not deterministic or not exact enough, " + std::to_string(refused) +
              " cannot run or need too much memory"};
}

class ConvolutionKernel final : public Kernel {
 public:
  ConvolutionKernel(const executor::NodeSpec& node, const Target& target, bool is_strict_f32)
      : handle_(target.handle), graph_(node, target), plan_(make_plan(graph_, target, is_strict_f32)) {
    const Shape& y = node.outputs[0].shape;
    has_bias_ = node.op == OpKind::Conv && has_input(node, 2);
    y_type_ = node.outputs[0].dtype;
    bias_type_ = input_dtype(node, 2);
    batch_ = y[0];
    channels_ = y[1];
    positions_ = y.elements(2, y.rank());
  }
  const std::string& reason() const { return plan_.reason; }

  void run(const Launch& launch) override {
    MPC_DNN(cudnnSetStream(handle_, static_cast<cudaStream_t>(launch.stream.handle)));
    const int64_t ids[] = {kFirst, kSecond, kResult};
    void* pointers[] = {launch.inputs[0], launch.inputs[1], launch.outputs[0]};
    Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3, ids);
    pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3, pointers);
    pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &launch.workspace);
    pack.finalize();
    MPC_DNN(cudnnBackendExecute(handle_, plan_.plan.get(), pack.get()));
    if (!has_bias_) return;
    add_channel_bias(launch.stream, launch.outputs[0], y_type_, launch.inputs[2], bias_type_, batch_, channels_,
                     positions_);
  }
  int64_t workspace_bytes() const override { return plan_.workspace_bytes; }
  std::string_view name() const override { return "cuda:cudnn convolution"; }

 private:
  cudnnHandle_t handle_;
  ConvolutionGraph graph_;
  PlanOrReason plan_;
  bool has_bias_ = false;
  DType y_type_ = DType::f32;
  DType bias_type_ = DType::f32;
  int64_t batch_ = 0;
  int64_t channels_ = 0;
  int64_t positions_ = 0;
};

std::string refusal(const executor::NodeSpec& node) {
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

bool is_strict(const executor::NodeSpec& node, const MakeOptions& options) {
  return output_dtype(node, 0) == DType::f32 && !options.allows_tf32;
}

}  // namespace

KernelOrReason cudnn_convolution(const executor::NodeSpec& node, const MakeOptions& options, LibraryHandle& handle) {
  const Library& dnn = library(LibraryName::cudnn);
  if (dnn.handle == nullptr) return declined("cuDNN: " + dnn.path);
  if (std::string reason = refusal(node); !reason.empty()) return declined(reason);
  if (handle.handle == nullptr) {
    cudnnHandle_t made = nullptr;
    MPC_DNN(cudnnCreate(&made));
    handle.handle = made;
    handle.destroy = [](void* old) { api().cudnnDestroy(static_cast<cudnnHandle_t>(old)); };
  }
  const Target target{static_cast<cudnnHandle_t>(handle.handle), nullptr};
  try {
    auto kernel = std::make_unique<ConvolutionKernel>(node, target, is_strict(node, options));
    if (!kernel->reason().empty()) return declined(kernel->reason());
    return {std::move(kernel), {}};
  } catch (const DeviceError& error) {
    if (error.is_sticky()) throw;
    return declined(error.what());  // a graph that cuDNN does not take
  }
}

std::string cudnn_convolution_refusal(const executor::NodeSpec& node, const MakeOptions& options,
                                      const std::string& device_json) {
  const Library& dnn = library(LibraryName::cudnn);
  if (dnn.handle == nullptr) return "cuDNN: " + dnn.path;
  if (std::string reason = refusal(node); !reason.empty()) return reason;
  Descriptor device(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  device.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, static_cast<int64_t>(device_json.size() + 1),
             device_json.c_str());
  device.finalize();
  const ConvolutionKernel kernel(node, {nullptr, &device}, is_strict(node, options));
  return kernel.reason();
}

LibraryHandle::~LibraryHandle() {
  if (handle != nullptr) destroy(handle);
}

}  // namespace mpc::cuda
