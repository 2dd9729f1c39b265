#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "executor/backend.h"

// What the CPU kernels share.

// Compiles a loop for several instruction sets; the best is chosen when the program starts. Levels, not names of
// processors: GCC takes a name for that model alone, and gives all others the plain loop. Arithmetic is the same in
// all of them: there is no contraction to fused multiply-adds (-ffp-contract=off). Sanitizers cannot start before such
// choices.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) && \
    !defined(__SANITIZE_ADDRESS__)
#define MPC_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define MPC_CLONES
#endif

namespace mpc::cpu {

using executor::Kernel;
using executor::KernelOrReason;
using executor::NodeSpec;

/// A kernel that keeps nothing between calls.
using PlainRun = void (*)(const KernelCall& call, int threads);
KernelOrReason plain_kernel(std::string_view name, PlainRun run, int threads);

inline KernelOrReason declined(std::string reason) {
  return {nullptr, std::move(reason)};
}

/// Are all present operands of this dtype?
bool all_of_type(const NodeSpec& node, DType dtype);
/// Has any present operand no elements?
bool has_empty_operand(const NodeSpec& node);
inline bool has_input(const NodeSpec& node, size_t i) {
  return i < node.inputs.size() && node.inputs[i].is_present;
}
inline bool has_output(const NodeSpec& node, size_t i) {
  return i < node.outputs.size() && node.outputs[i].is_present;
}

/// Calls f(begin, end) on parts of [0, count), on up to `threads` threads. Parts have at least `grain` items. Only for
/// work whose result does not depend on where the parts begin.
void parallel_for(int threads, int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& f);

/// Who uses memory of a thread: the second may call the first.
enum class Scratch : uint8_t { kernel, widened };
/// Memory of the calling thread for intermediate results: aligned to 64 bytes, kept between calls, grown where needed.
/// A second call for the same user may move what the first one gave.
std::span<std::byte> thread_scratch(int64_t bytes, Scratch user = Scratch::kernel);

}  // namespace mpc::cpu
