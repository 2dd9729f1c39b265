#pragma once

#include <cudnn.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "compiler/base/dtype.h"
#include "compiler/base/shape.h"
#include "executor/cuda/code_cache.h"
#include "executor/cuda/libraries.h"
#include "executor/cuda/library_kernels.h"

// The graph API of cuDNN: tensors and operations are descriptors, a graph of them gets an execution plan from the first
// engine of cuDNN's heuristic that is deterministic and exact enough.

namespace mpc::cuda {

#define MPC_CUDNN_FUNCTIONS(X)     \
  X(cudnnCreate)                   \
  X(cudnnDestroy)                  \
  X(cudnnSetStream)                \
  X(cudnnGetErrorString)           \
  X(cudnnGetVersion)               \
  X(cudnnBackendCreateDescriptor)  \
  X(cudnnBackendDestroyDescriptor) \
  X(cudnnBackendExecute)           \
  X(cudnnBackendFinalize)          \
  X(cudnnBackendGetAttribute)      \
  X(cudnnBackendSetAttribute)
MPC_LIBRARY_API(CudnnApi, MPC_CUDNN_FUNCTIONS)
/// @throws DeviceError when the library lacks one of them. @pre the library is there.
const CudnnApi& cudnn_api();

/// @throws DeviceError for a status that is not success, with the call and cuDNN's text.
void check_cudnn(cudnnStatus_t status, const char* call, const char* file, int line);
#define MPC_DNN(call) ::mpc::cuda::check_cudnn(::mpc::cuda::cudnn_api().call, #call, __FILE__, __LINE__)

/// A descriptor of the graph API, destroyed with the object.
class CudnnDescriptor {
 public:
  CudnnDescriptor() = default;
  explicit CudnnDescriptor(cudnnBackendDescriptorType_t type);
  ~CudnnDescriptor();
  CudnnDescriptor(CudnnDescriptor&& other) noexcept
      : value_(std::exchange(other.value_, nullptr)), text_(std::move(other.text_)) {}
  CudnnDescriptor& operator=(CudnnDescriptor&& other) noexcept {
    std::swap(value_, other.value_);
    std::swap(text_, other.text_);
    return *this;
  }
  cudnnBackendDescriptor_t get() const { return value_; }

  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void* values);
  void set_one(cudnnBackendAttributeName_t name, const CudnnDescriptor& other);
  void set_integers(cudnnBackendAttributeName_t name, const std::vector<int64_t>& values);
  void finalize();
  cudnnStatus_t try_finalize();
  /// Everything that was set, with the descriptors that are referred to: equal for descriptors that mean the same.
  const std::string& text() const { return text_; }

 private:
  cudnnBackendDescriptor_t value_ = nullptr;
  std::string text_;
};

/// Either a handle (on a GPU) or the description of a device.
struct CudnnTarget {
  cudnnHandle_t handle = nullptr;
  const CudnnDescriptor* device = nullptr;
  std::string gpu;                   // all that choices depend on: model, driver
  const CodeCache* cache = nullptr;  // where plans are kept; null: nowhere
};

cudnnDataType_t cudnn_type(DType dtype);

/// Row-major steps of these dimensions.
std::vector<int64_t> dense_steps(const std::vector<int64_t>& dims);
/// The steps of (N, C, d1...) with C stored last.
std::vector<int64_t> channels_last_steps(const std::vector<int64_t>& dims);

/// The operations of one kernel. Tensors are known by their ids, which are also those of the pointers when it runs.
class CudnnGraph {
 public:
  using Id = int64_t;
  static constexpr int64_t kWholeAlignment = 256;

  /// A tensor in device memory, aligned to so many bytes.
  Id tensor(std::vector<int64_t> dims, std::vector<int64_t> steps, cudnnDataType_t type,
            int64_t alignment = kWholeAlignment);
  /// A tensor between operations, which is in no memory.
  Id between(std::vector<int64_t> dims, std::vector<int64_t> steps, cudnnDataType_t type);
  /// One number in host memory, read when the work is enqueued. `rank` dimensions of 1.
  Id number(size_t rank, cudnnDataType_t type);

  /// y = mode(x), mode(x, b), or t ? x : b (BINARY_SELECT). `axis`: of GEN_INDEX.
  struct Pointwise {
    cudnnPointwiseMode_t mode;
    Id x;
    Id b = 0;
    Id t = 0;
    Id y;
    cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    int64_t axis = -1;
  };
  void pointwise(const Pointwise& operation);
  /// c = a b for every leading index, computed in f32.
  void matmul(Id a, Id b, Id c);
  /// y = x reduced over the dimensions that are 1 in y, in f32.
  void reduce(cudnnReduceTensorOp_t how, Id x, Id y);
  /// y = x under other dimensions or steps.
  void reshape(Id x, Id y);
  /// Any operation: `descriptor` is finalized by finish().
  void add(CudnnDescriptor descriptor);
  const CudnnDescriptor& at(Id id) const { return tensors_[static_cast<size_t>(id - 1)]; }
  /// What operations refer to beside tensors.
  const CudnnDescriptor& keep(CudnnDescriptor descriptor);

  /// @throws DeviceError for what cuDNN does not take as a graph.
  void finish(const CudnnTarget& target);
  const CudnnDescriptor& graph() const { return graph_; }
  /// Everything that the graph consists of, in words for a key.
  std::string text() const;

 private:
  enum class Place : uint8_t { device, between, host };
  static constexpr int64_t kNumberAlignment = 16;
  Id add_tensor(std::vector<int64_t> dims, std::vector<int64_t> steps, cudnnDataType_t type, Place place,
                int64_t alignment = kNumberAlignment);

  std::vector<CudnnDescriptor> tensors_;
  std::vector<CudnnDescriptor> parts_;
  std::vector<CudnnDescriptor> operations_;
  CudnnDescriptor graph_;
};

/// Which engines may be used beside being deterministic.
enum class CudnnExactness : uint8_t {
  any,
  strict_f32,  // none that rounds f32 operands, no Winograd, no FFT
};

/// An execution plan, or why there is none. The graph has to live as long.
struct CudnnPlan {
  CudnnDescriptor plan;
  int64_t workspace_bytes = 0;
  std::string reason;

  /// Enqueues the work on the handle's stream.
  void run(cudnnHandle_t handle, const std::vector<CudnnGraph::Id>& ids, const std::vector<void*>& pointers,
           void* workspace) const;
};
/// The plan that the target's cache has for the graph, else that of the first engine that qualifies, which is then
/// kept: a kernel that cuDNN compiles takes about a second.
CudnnPlan make_cudnn_plan(const CudnnGraph& graph, const CudnnTarget& target, CudnnExactness exactness);

// What cudnn.cpp chooses from. `why_not` gives the reason for which a node is none of theirs before cuDNN is asked, or
// ""; the constructor of the kernel asks cuDNN. A kernel that was made for a description cannot run.
class CudnnKernel : public Kernel {
 public:
  /// Why cuDNN has no plan, or "".
  virtual const std::string& reason() const = 0;
};
std::string why_no_cudnn_convolution(const executor::NodeSpec& node);
std::unique_ptr<CudnnKernel> make_cudnn_convolution(const executor::NodeSpec& node, const CudnnTarget& target,
                                                    CudnnExactness exactness);
std::string why_no_cudnn_attention(const executor::NodeSpec& node);
std::unique_ptr<CudnnKernel> make_cudnn_attention(const executor::NodeSpec& node, const CudnnTarget& target,
                                                  CudnnExactness exactness);
std::string why_no_cudnn_normalization(const executor::NodeSpec& node);
std::unique_ptr<CudnnKernel> make_cudnn_normalization(const executor::NodeSpec& node, const CudnnTarget& target,
                                                      CudnnExactness exactness);

}  // namespace mpc::cuda
