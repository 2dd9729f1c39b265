// Elementwise nodes by code that is generated for them and compiled by NVRTC while the session is made.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "compiler/base/elementwise_program.h"
#include "executor/cuda/error.h"
#include "executor/cuda/fused_source.h"
#include "executor/cuda/library_kernels.h"
#include "executor/cuda/nvrtc.h"

namespace mpc::cuda {
namespace {

constexpr const char* kFunction = "mpc_fused";
/// Enough to fill every GPU several times over; the rest is walked in strides.
constexpr int64_t kMostBlocks = 132 * 16;

struct Loaded {
  cudaKernel_t kernel = nullptr;
  std::string refusal;  // why there is none
};

/// The kernel of a source, compiled and loaded once per process: layers repeat. What is loaded stays, as the plugin
/// does.
Loaded load(const std::string& source, int arch) {
  static std::mutex mutex;
  static std::map<std::pair<int, std::string>, Loaded> known;
  const std::lock_guard lock(mutex);
  const auto [at, is_new] = known.try_emplace({arch, source});
  if (!is_new) return at->second;
  static const CodeCache cache;
  const CompiledCode compiled = compile_for_gpu(source, arch, cache);
  if (compiled.code.empty()) {
    at->second.refusal = compiled.log.substr(0, compiled.log.find('\n'));
    return at->second;
  }
  cudaLibrary_t library = nullptr;
  cudaError_t status = cudaLibraryLoadData(&library, compiled.code.data(), nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (status == cudaSuccess) status = cudaLibraryGetKernel(&at->second.kernel, library, kFunction);
  if (status != cudaSuccess) {  // for example code for a newer driver than is there
    if (is_sticky(status)) throw_cuda(status, "cudaLibraryLoadData", __FILE__, __LINE__);
    cudaGetLastError();
    at->second.refusal = std::string("generated code is not loaded: ") + cudaGetErrorName(status);
  }
  return at->second;
}

class GeneratedKernel final : public Kernel {
 public:
  GeneratedKernel(cudaKernel_t kernel, int64_t elements)
      : kernel_(kernel),
        blocks_(static_cast<unsigned>(std::min((elements + kFusedThreads - 1) / kFusedThreads, kMostBlocks))) {}

  void run(const Launch& launch) override {
    std::array<const void*, kMostElementwiseInputs + 1> pointers{};
    std::array<void*, kMostElementwiseInputs + 1> arguments{};
    size_t count = 0;
    for (const void* input : launch.inputs) pointers[count++] = input;
    pointers[count++] = launch.outputs[0];
    for (size_t i = 0; i < count; ++i) arguments[i] = &pointers[i];
    MPC_CUDA(cudaLaunchKernel(reinterpret_cast<const void*>(kernel_), dim3(blocks_), dim3(kFusedThreads),
                              arguments.data(), 0, static_cast<cudaStream_t>(launch.stream.handle)));
  }
  std::string_view name() const override { return "nvrtc:fused"; }

 private:
  cudaKernel_t kernel_;
  unsigned blocks_;
};

}  // namespace

KernelOrReason nvrtc_fused(const executor::NodeSpec& node, int ordinal) {
  const int64_t elements = node.outputs[0].shape.elements();
  if (elements == 0) return declined("nothing is generated for results without elements");
  int major = 0;
  int minor = 0;
  MPC_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal));
  MPC_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal));
  const Loaded loaded = load(fused_source(node, kFunction), 10 * major + minor);
  if (loaded.kernel == nullptr) return declined(loaded.refusal);
  return {std::make_unique<GeneratedKernel>(loaded.kernel, elements), {}};
}

}  // namespace mpc::cuda
