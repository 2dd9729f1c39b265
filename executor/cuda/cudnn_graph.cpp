#include "executor/cuda/cudnn_graph.h"

#include <algorithm>
#include <optional>

#include "executor/cuda/error.h"

namespace mpc::cuda {

const CudnnApi& cudnn_api() {
  static const CudnnApi kApi(library(LibraryName::cudnn));
  return kApi;
}

void check_cudnn(cudnnStatus_t status, const char* call, const char* file, int line) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw_library("cuDNN", static_cast<int>(status), cudnn_api().cudnnGetErrorString(status), call, file, line);
}

namespace {

/// Of one value of an attribute; 0 for what points elsewhere.
size_t attribute_bytes(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
      return 0;
    case CUDNN_TYPE_BOOLEAN:
      return sizeof(bool);
    case CUDNN_TYPE_CHAR:
      return sizeof(char);
    case CUDNN_TYPE_INT64:
      return sizeof(int64_t);
    case CUDNN_TYPE_DOUBLE:
      return sizeof(double);
    default:  // float, int32 and the enumerations
      return sizeof(int32_t);
  }
}

}  // namespace

CudnnDescriptor::CudnnDescriptor(cudnnBackendDescriptorType_t type) : text_(std::to_string(type)) {
  MPC_DNN(cudnnBackendCreateDescriptor(type, &value_));
}

CudnnDescriptor::~CudnnDescriptor() {
  if (value_ != nullptr) cudnn_api().cudnnBackendDestroyDescriptor(value_);
}

void CudnnDescriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                          const void* values) {
  MPC_DNN(cudnnBackendSetAttribute(value_, name, type, count, values));
  text_ += " " + std::to_string(name) + ":" + std::to_string(count) + ":";
  text_.append(static_cast<const char*>(values), static_cast<size_t>(count) * attribute_bytes(type));
}

void CudnnDescriptor::set_one(cudnnBackendAttributeName_t name, const CudnnDescriptor& other) {
  set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &other.value_);
  text_ += "(" + other.text_ + ")";
}

void CudnnDescriptor::set_integers(cudnnBackendAttributeName_t name, const std::vector<int64_t>& values) {
  set(name, CUDNN_TYPE_INT64, static_cast<int64_t>(values.size()), values.data());
}

void CudnnDescriptor::finalize() {
  MPC_DNN(cudnnBackendFinalize(value_));
}

cudnnStatus_t CudnnDescriptor::try_finalize() {
  return cudnn_api().cudnnBackendFinalize(value_);
}

cudnnDataType_t cudnn_type(DType dtype) {
  if (dtype == DType::f16) return CUDNN_DATA_HALF;
  return dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
}

std::vector<int64_t> dense_steps(const std::vector<int64_t>& dims) {
  std::vector<int64_t> steps(dims.size(), 1);
  for (size_t i = dims.size() - 1; i > 0; --i) steps[i - 1] = steps[i] * dims[i];
  return steps;
}

std::vector<int64_t> channels_last_steps(const std::vector<int64_t>& dims) {
  std::vector<int64_t> steps = dense_steps(dims);
  for (size_t i = 2; i < dims.size(); ++i) steps[i] *= dims[1];
  steps[1] = 1;
  return steps;
}

CudnnGraph::Id CudnnGraph::add_tensor(std::vector<int64_t> dims, std::vector<int64_t> steps, cudnnDataType_t type,
                                      Place place, int64_t alignment) {
  const int64_t id = static_cast<int64_t>(tensors_.size()) + 1;
  const bool is_set = true;
  CudnnDescriptor made(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  made.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  made.set_integers(CUDNN_ATTR_TENSOR_DIMENSIONS, dims);
  made.set_integers(CUDNN_ATTR_TENSOR_STRIDES, steps);
  made.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
  made.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  if (place == Place::between) made.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_set);
  if (place == Place::host) made.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &is_set);
  made.finalize();
  tensors_.push_back(std::move(made));
  return id;
}

CudnnGraph::Id CudnnGraph::tensor(std::vector<int64_t> dims, std::vector<int64_t> steps, cudnnDataType_t type,
                                  int64_t alignment) {
  return add_tensor(std::move(dims), std::move(steps), type, Place::device, alignment);
}

CudnnGraph::Id CudnnGraph::between(std::vector<int64_t> dims, std::vector<int64_t> steps, cudnnDataType_t type) {
  return add_tensor(std::move(dims), std::move(steps), type, Place::between);
}

CudnnGraph::Id CudnnGraph::number(size_t rank, cudnnDataType_t type) {
  return add_tensor(std::vector<int64_t>(rank, 1), std::vector<int64_t>(rank, 1), type, Place::host);
}

const CudnnDescriptor& CudnnGraph::keep(CudnnDescriptor descriptor) {
  parts_.push_back(std::move(descriptor));
  return parts_.back();
}

void CudnnGraph::add(CudnnDescriptor descriptor) {
  descriptor.finalize();
  operations_.push_back(std::move(descriptor));
}

void CudnnGraph::pointwise(const Pointwise& p) {
  CudnnDescriptor how(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  how.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &p.mode);
  how.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &p.compute);
  if (p.axis >= 0) how.set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &p.axis);
  how.finalize();
  CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.set_one(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, keep(std::move(how)));
  operation.set_one(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, at(p.x));
  if (p.b != 0) operation.set_one(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, at(p.b));
  if (p.t != 0) operation.set_one(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, at(p.t));
  operation.set_one(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at(p.y));
  add(std::move(operation));
}

void CudnnGraph::matmul(Id a, Id b, Id c) {
  const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  CudnnDescriptor how(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  how.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  how.finalize();
  CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  operation.set_one(CUDNN_ATTR_OPERATION_MATMUL_DESC, keep(std::move(how)));
  operation.set_one(CUDNN_ATTR_OPERATION_MATMUL_ADESC, at(a));
  operation.set_one(CUDNN_ATTR_OPERATION_MATMUL_BDESC, at(b));
  operation.set_one(CUDNN_ATTR_OPERATION_MATMUL_CDESC, at(c));
  add(std::move(operation));
}

void CudnnGraph::reduce(cudnnReduceTensorOp_t how_to, Id x, Id y) {
  const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  CudnnDescriptor how(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  how.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  how.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &how_to);
  how.finalize();
  CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  operation.set_one(CUDNN_ATTR_OPERATION_REDUCTION_DESC, keep(std::move(how)));
  operation.set_one(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, at(x));
  operation.set_one(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, at(y));
  add(std::move(operation));
}

void CudnnGraph::reshape(Id x, Id y) {
  CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  operation.set_one(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, at(x));
  operation.set_one(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, at(y));
  add(std::move(operation));
}

std::string CudnnGraph::text() const {
  std::string text;
  for (const CudnnDescriptor& operation : operations_) text += operation.text() + "\n";
  return text;
}

void CudnnGraph::finish(const CudnnTarget& target) {
  std::vector<cudnnBackendDescriptor_t> raw;
  for (const CudnnDescriptor& operation : operations_) raw.push_back(operation.get());
  graph_ = CudnnDescriptor(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph_.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(raw.size()),
             raw.data());
  if (target.handle != nullptr) graph_.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle);
  graph_.finalize();
}

namespace {

/// May an engine with these notes be used?
bool is_wanted(const CudnnDescriptor& config, CudnnExactness exactness) {
  CudnnDescriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
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
  if (exactness == CudnnExactness::any) return true;
  // On f32 operands the matrix units compute in TF32; Winograd and FFT lose digits of their own.
  return !has(CUDNN_NUMERICAL_NOTE_TENSOR_CORE) && !has(CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS) &&
         !has(CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION) && !has(CUDNN_NUMERICAL_NOTE_WINOGRAD) &&
         !has(CUDNN_NUMERICAL_NOTE_FFT);
}

constexpr int64_t kMostConfigs = 64;
// The deterministic gradient of attention keeps scores of all heads in 16 bits: 1.7 GB for 16 rows of 2048 tokens and
// 12 heads.
constexpr int64_t kMostWorkspace = int64_t{2} << 30;

void aim(CudnnDescriptor& plan, const CudnnTarget& target) {
  if (target.handle != nullptr) plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle);
  if (target.device != nullptr) plan.set_one(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *target.device);
}

int64_t workspace_of(const CudnnDescriptor& plan) {
  int64_t found = 0;
  int64_t bytes = 0;
  MPC_DNN(cudnnBackendGetAttribute(plan.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &found,
                                   &bytes));
  return bytes;
}

/// The plan that was kept, if there is one and cuDNN takes it.
std::optional<CudnnPlan> kept_plan(const std::string& key, const CudnnTarget& target) {
  const auto json = target.cache == nullptr ? std::nullopt : target.cache->find(key);
  if (!json) return std::nullopt;
  CudnnPlan result{CudnnDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR), 0, {}};
  aim(result.plan, target);
  const cudnnStatus_t status =
      cudnn_api().cudnnBackendSetAttribute(result.plan.get(), CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION,
                                           CUDNN_TYPE_CHAR, static_cast<int64_t>(json->size()), json->data());
  if (status != CUDNN_STATUS_SUCCESS || result.plan.try_finalize() != CUDNN_STATUS_SUCCESS) return std::nullopt;
  result.workspace_bytes = workspace_of(result.plan);
  return result;
}

/// Keeps the plan, unless it is of an engine that cannot be written down.
void keep_plan(const std::string& key, const CudnnTarget& target, const CudnnPlan& plan) {
  if (target.cache == nullptr) return;
  const auto read = [&](int64_t room, int64_t& bytes, char* text) {
    return cudnn_api().cudnnBackendGetAttribute(plan.plan.get(), CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION,
                                                CUDNN_TYPE_CHAR, room, &bytes, text) == CUDNN_STATUS_SUCCESS;
  };
  int64_t bytes = 0;
  if (!read(0, bytes, nullptr) || bytes <= 0) return;
  std::string json(static_cast<size_t>(bytes), ' ');
  if (!read(bytes, bytes, json.data())) return;
  json.resize(static_cast<size_t>(bytes));
  target.cache->keep(key, json);
}

}  // namespace

CudnnPlan make_cudnn_plan(const CudnnGraph& graph, const CudnnTarget& target, CudnnExactness exactness) {
  const std::string key = "cudnn " + std::to_string(cudnn_api().cudnnGetVersion()) + "\n" + target.gpu + "\n" +
                          (exactness == CudnnExactness::any ? "any" : "strict f32") + "\n" + graph.text();
  if (auto known = kept_plan(key, target)) return std::move(*known);
  CudnnDescriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  heuristic.set_one(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.graph());
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (target.device != nullptr) heuristic.set_one(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *target.device);
  heuristic.finalize();
  std::vector<CudnnDescriptor> configs;
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
    const CudnnDescriptor& config = configs[static_cast<size_t>(i)];
    if (!is_wanted(config, exactness)) {
      ++unwanted;
      continue;
    }
    CudnnPlan result{CudnnDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR), 0, {}};
    result.plan.set_one(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    aim(result.plan, target);
    const cudnnStatus_t status = result.plan.try_finalize();
    // For a description, an engine that compiles its kernel gets as far as to load it, which needs a driver.
    if (target.device != nullptr && status == CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER) return result;
    if (status != CUDNN_STATUS_SUCCESS) {
      ++refused;
      continue;
    }
    result.workspace_bytes = workspace_of(result.plan);
    if (result.workspace_bytes <= kMostWorkspace) {
      keep_plan(key, target, result);
      return result;
    }
    ++refused;
  }
  return {{},
          0,
          "cuDNN: of " + std::to_string(count) + " engines " + std::to_string(unwanted) +
              " are not deterministic or not exact enough, " + std::to_string(refused) +
              " cannot run or need too much memory"};
}

void CudnnPlan::run(cudnnHandle_t handle, const std::vector<CudnnGraph::Id>& ids, const std::vector<void*>& pointers,
                    void* workspace) const {
  CudnnDescriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  const int64_t count = static_cast<int64_t>(ids.size());
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, pointers.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  pack.finalize();
  MPC_DNN(cudnnBackendExecute(handle, plan.get(), pack.get()));
}

}  // namespace mpc::cuda
