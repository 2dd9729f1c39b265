#pragma once

#include <string>

#include "executor/cuda/code_cache.h"

// NVRTC: CUDA C++ that is written while a session is made, compiled for the GPU that is there.

namespace mpc::cuda {

struct CompiledCode {
  std::string code;  // a cubin; empty when there is none
  std::string log;   // what the compiler said: why there is none; with Report::resources what every kernel needs
};

enum class CompilerReport : uint8_t { errors, resources };

/// Compiles a source that may include the functors (executor/functors/unary.h and binary.h), for GPUs of compute
/// capability `arch` (90: sm_90). Arithmetic is as the plugin's own kernels have it: no fused multiply-adds. The cache
/// is asked first, under everything that the code follows from: source, headers, options and NVRTC's version.
/// @throws nothing of NVRTC: what goes wrong is in the log.
CompiledCode compile_for_gpu(const std::string& source, int arch, const CodeCache& cache,
                             CompilerReport report = CompilerReport::errors);

}  // namespace mpc::cuda
