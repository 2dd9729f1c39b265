#pragma once

#include <cstdint>
#include <type_traits>

#include "compiler/base/half.h"
#include "executor/cuda/kernel.h"
#include "executor/cuda/team.h"

// The only place where the plugin's kernels meet the hardware. A kernel is a body: a small struct that is copied to the
// device and called
//   for_each:        body(i) for every i in [0, count), in any order
//   for_each_block:  body(block, b) for every b in [0, blocks); `block` is a team of kThreads threads
// The same bodies run on the host (tests): in a loop, or in teams of threads that are watched (team.h). A Block does
// its reductions in the same order there, so that what differs is only the mathematical library.

namespace mpc::cuda {

/// Teams of for_each: enough to fill every GPU several times over; a longer range is walked in strides.
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
    for (int64_t i = team::thread(); i < count; i += team::threads()) f(i);
    team::barrier<F>();
  }

  /// combine(combine(identity, f(0)), ...) over all i. T is at most 16 bytes and trivially copyable; combine is
  /// associative but for rounding, and its first operand is always the one of smaller indices within a thread.
  template <class T, class F, class Combine>
  MPC_DEVICE T reduce(int64_t count, T identity, F f, Combine combine) {
    static_assert(sizeof(T) <= kScratchBytes && alignof(T) <= kScratchBytes && std::is_trivially_copyable_v<T>);
    MPC_SHARED team::Scratch<kThreads * kScratchBytes> scratch;
    T* const parts = reinterpret_cast<T*>(scratch.bytes);
    team::for_threads(kThreads, [&](unsigned thread) {
      T part = identity;
      for (int64_t i = thread; i < count; i += kThreads) part = combine(part, f(i));
      parts[thread] = part;
    });
    team::barrier<F>();
    for (unsigned half = kThreads / 2; half > 0; half /= 2) {
      team::for_threads(half, [&](unsigned thread) { parts[thread] = combine(parts[thread], parts[thread + half]); });
      team::barrier<F>();
    }
    const T result = parts[0];
    team::barrier<F>();  // before the next reduction takes the scratch
    return result;
  }

  template <class F>
  MPC_DEVICE double sum(int64_t count, F f) {
    return reduce(count, 0.0, f, [](double a, double b) { return a + b; });
  }

  /// What one thread computes, for all. T is at most 128 bytes and trivially copyable.
  template <class T, class F>
  MPC_DEVICE T once(F f) {
    static_assert(sizeof(T) <= kSharedBytes && alignof(T) <= kScratchBytes && std::is_trivially_copyable_v<T>);
    MPC_SHARED team::Scratch<kSharedBytes> shared;
    T* const place = reinterpret_cast<T*>(shared.bytes);
    if (team::thread() == 0) *place = f();
    team::barrier<F>();
    const T result = *place;
    team::barrier<F>();  // before the next call takes the place
    return result;
  }

 private:
  static constexpr size_t kScratchBytes = 16;
  static constexpr size_t kSharedBytes = 128;
};

/// What one thread does of for_each.
template <class Body>
MPC_DEVICE void walk(const Body& body, int64_t count) {
  const int64_t step = team::count() * team::threads();
  for (int64_t i = team::index() * team::threads() + team::thread(); i < count; i += step) {
    team::item(i);
    body(i);
  }
}

/// What one thread does of for_each_block: all of its team take the same items.
template <class Body>
MPC_DEVICE void walk_blocks(const Body& body, int64_t blocks) {
  for (int64_t b = team::index(); b < blocks; b += team::count()) {
    team::item(b);
    Block block;
    body(block, b);
    team::barrier<Body>();
  }
}

#ifdef __CUDACC__

// __grid_constant__: bodies hold tables (of tensors, of steps), which stay in constant memory instead of being copied
// by every thread.
template <class Body>
__global__ void __launch_bounds__(kThreads) for_each_kernel(const __grid_constant__ Body body, int64_t count) {
  walk(body, count);
}

template <class Body>
__global__ void __launch_bounds__(kThreads) for_each_block_kernel(const __grid_constant__ Body body, int64_t blocks) {
  walk_blocks(body, blocks);
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

#else

/// Told of every launch, copy and fill that a GPU would have been given; and how many there were.
void count_launch();
int64_t launches_on_host();

template <class Body>
void for_each(Stream, int64_t count, Body body, const char* what) {
  if (count <= 0) return;
  count_launch();
  team::launch(what, (count + kThreads - 1) / kThreads, team::Waits::no, [&] { walk(body, count); });
}

template <class Body>
void for_each_block(Stream, int64_t blocks, Body body, const char* what) {
  if (blocks <= 0) return;
  count_launch();
  team::launch(what, blocks, team::Waits::yes, [&] { walk_blocks(body, blocks); });
}

#endif

/// Copies within device memory (to what lies apart from it), or fills it, on the stream.
void copy_bytes(Stream stream, void* to, const void* from, int64_t bytes);
void fill_bytes(Stream stream, void* to, int byte, int64_t bytes);

}  // namespace mpc::cuda
