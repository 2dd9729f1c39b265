#pragma once

#include <string>

#include "executor/backend.h"

// An Elementwise node as CUDA C++: one function for its steps, types and shapes, of the functors that the operators
// have alone, each step rounded to its dtype. It computes the bits of the kernel that walks the program
// (kernels/fused.cu), without looking anything up. The same text compiles for the host, where tests run it.

namespace mpc::cuda {

inline constexpr int kFusedThreads = 256;

/// extern "C" NAME(const void* in0, ..., void* out): on a GPU a kernel for any number of blocks of kFusedThreads
/// threads; on the host a function that does every element. Equal for nodes that are equal but for their names.
/// @pre node.op is Elementwise, and its result has elements.
std::string fused_source(const executor::NodeSpec& node, const std::string& name);

}  // namespace mpc::cuda
