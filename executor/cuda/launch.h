#pragma once

#include <cstdint>

#include "compiler/base/half.h"
#include "executor/cuda/kernel.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

// The only place where the plugin's kernels meet the hardware. A kernel is a body: a small struct that is copied to the
// device and called
//   for_each:        body(i) for every i in [0, count), in any order
//   for_each_block:  body(block, b) for every b in [0, blocks); `block` is a team of kThreads threads
// On the host (tests) the same bodies are called in a loop, and a Block does its reductions in the order of the GPU's,
// so that what differs is only the mathematical library.

#ifdef __CUDACC__
#define MPC_DEVICE __device__
#else
#define MPC_DEVICE
#endif

namespace mpc::cuda {

inline constexpr int kThreads = 256;
/// Blocks of for_each: enough to fill every GPU several times over; a longer range is walked in strides.
inline constexpr int64_t kMostBlocks = 132 * 16;

/// @throws Error(M080) when the last launch was refused.
void check_launch(const char* what);

/// A team of threads that works on one row (or one result). Every member function is called by all of them alike, and
/// gives all of them the same result. Sums run over i = thread, thread + kThreads, ... and are then added pairwise, so
/// their order depends on `count` alone.
class Block {
 public:
  /// f(i) for every i, each by one thread. Followed by a barrier.
  template <class F>
  MPC_DEVICE void for_each(int64_t count, F f) {
#ifdef __CUDACC__
    for (int64_t i = threadIdx.x; i < count; i += kThreads) f(i);
    __syncthreads();
#else
    for (int64_t i = 0; i < count; ++i) f(i);
#endif
  }

  /// combine(combine(identity, f(0)), ...) over all i. T is at most 16 bytes; combine is associative but for rounding,
  /// and its first operand is always the one of smaller indices within a thread.
  template <class T, class F, class Combine>
  MPC_DEVICE T reduce(int64_t count, T identity, F f, Combine combine) {
    static_assert(sizeof(T) <= kScratchBytes);
#ifdef __CUDACC__
    __shared__ alignas(16) unsigned char scratch[kThreads * kScratchBytes];
    T* parts = reinterpret_cast<T*>(scratch);
    T part = identity;
    for (int64_t i = threadIdx.x; i < count; i += kThreads) part = combine(part, f(i));
    parts[threadIdx.x] = part;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (threadIdx.x < static_cast<unsigned>(half)) {
        parts[threadIdx.x] = combine(parts[threadIdx.x], parts[threadIdx.x + half]);
      }
      __syncthreads();
    }
    const T result = parts[0];
    __syncthreads();  // before the next reduction takes the scratch
    return result;
#else
    T parts[kThreads];
    for (int t = 0; t < kThreads; ++t) {
      parts[t] = identity;
      for (int64_t i = t; i < count; i += kThreads) parts[t] = combine(parts[t], f(i));
    }
    for (int half = kThreads / 2; half > 0; half /= 2) {
      for (int t = 0; t < half; ++t) parts[t] = combine(parts[t], parts[t + half]);
    }
    return parts[0];
#endif
  }

  template <class F>
  MPC_DEVICE double sum(int64_t count, F f) {
    return reduce(count, 0.0, f, [](double a, double b) { return a + b; });
  }

  /// What one thread computes, for all. T is at most 64 bytes and trivially copyable.
  template <class T, class F>
  MPC_DEVICE T once(F f) {
    static_assert(sizeof(T) <= kSharedBytes);
#ifdef __CUDACC__
    __shared__ alignas(16) unsigned char shared[kSharedBytes];
    if (threadIdx.x == 0) *reinterpret_cast<T*>(shared) = f();
    __syncthreads();
    const T result = *reinterpret_cast<T*>(shared);
    __syncthreads();
    return result;
#else
    return f();
#endif
  }

 private:
  static constexpr size_t kScratchBytes = 16;
  static constexpr size_t kSharedBytes = 128;
};

#ifdef __CUDACC__

// __grid_constant__: bodies hold tables (of tensors, of steps), which stay in constant memory instead of being copied
// by every thread.
template <class Body>
__global__ void __launch_bounds__(kThreads) for_each_kernel(const __grid_constant__ Body body, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) body(i);
}

template <class Body>
__global__ void __launch_bounds__(kThreads) for_each_block_kernel(const __grid_constant__ Body body, int64_t blocks) {
  for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
    Block block;
    body(block, b);
    __syncthreads();
  }
}

template <class Body>
void for_each(Stream stream, int64_t count, Body body, const char* what) {
  if (count <= 0) return;
  const int64_t wanted = (count + kThreads - 1) / kThreads;
  const unsigned blocks = static_cast<unsigned>(wanted < kMostBlocks ? wanted : kMostBlocks);
  for_each_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream.handle)>>>(body, count);
  check_launch(what);
}

template <class Body>
void for_each_block(Stream stream, int64_t blocks, Body body, const char* what) {
  if (blocks <= 0) return;
  constexpr int64_t kMostGrid = (int64_t{1} << 31) - 1;
  const unsigned grid = static_cast<unsigned>(blocks < kMostGrid ? blocks : kMostGrid);
  for_each_block_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream.handle)>>>(body, blocks);
  check_launch(what);
}

/// Copies within device memory, or fills it, on the stream.
void copy_bytes(Stream stream, void* to, const void* from, int64_t bytes);
void fill_bytes(Stream stream, void* to, int byte, int64_t bytes);

#else

/// Told of every launch, copy and fill that a GPU would have been given; and how many there were.
void count_launch();
int64_t launches_on_host();

template <class Body>
void for_each(Stream, int64_t count, Body body, const char*) {
  if (count > 0) count_launch();
  for (int64_t i = 0; i < count; ++i) body(i);
}

template <class Body>
void for_each_block(Stream, int64_t blocks, Body body, const char*) {
  if (blocks > 0) count_launch();
  for (int64_t b = 0; b < blocks; ++b) {
    Block block;
    body(block, b);
  }
}

void copy_bytes(Stream stream, void* to, const void* from, int64_t bytes);
void fill_bytes(Stream stream, void* to, int byte, int64_t bytes);

#endif

}  // namespace mpc::cuda
