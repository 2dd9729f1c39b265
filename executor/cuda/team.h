#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#elif defined(MPC_TEAMS_ON_HOST)
#include <functional>
#endif

// Who runs a kernel: what launch.h is written over, once for each of three machines.
//   a GPU              teams of kThreads threads, many at a time
//   MPC_TEAMS_ON_HOST  the same on the host, in turns, where every access is watched (tests/cuda/teams.h)
//   the host           one thread that is a team alone, and does what each thread of a team would
// A thread knows its number, waits for the others of its team (barrier), and has memory that the team shares
// (MPC_SHARED). What launch.h makes of that is the same source on all three.

#ifdef __CUDACC__
#define MPC_DEVICE __device__
#define MPC_SHARED __shared__
#elif defined(MPC_TEAMS_ON_HOST)
#define MPC_DEVICE
#define MPC_SHARED static  // teams take turns
#else
#define MPC_DEVICE
#define MPC_SHARED
#endif

namespace mpc::cuda {

/// Threads of a team.
inline constexpr unsigned kThreads = 256;

namespace team {

/// Do the threads of a launch wait for each other?
enum class Waits : uint8_t { no, yes };

#ifdef MPC_TEAMS_ON_HOST

/// Tells that a team shares these bytes.
void share(const void* begin, size_t bytes);
template <size_t kBytes>
struct Scratch {
  Scratch() { share(bytes, kBytes); }
  alignas(16) unsigned char bytes[kBytes];
};

unsigned thread();
unsigned threads();
int64_t index();
int64_t count();
void item(int64_t i);
/// The address tells barriers apart, what is there is for people.
void wait(const char* const* site);
template <class Site>
void barrier() {
  static const char* const text = __PRETTY_FUNCTION__;
  wait(&text);
}
bool puts(int32_t* place, int32_t none, int32_t value);
/// Calls `run` as every thread of `teams` teams. Only threads that have no barriers to wait at need no stacks of their
/// own.
void launch(const char* what, int64_t teams, Waits waits, const std::function<void()>& run);

#else

template <size_t kBytes>
struct Scratch {
  alignas(16) unsigned char bytes[kBytes];
};

/// Which of the team's threads this is, and for how many it does the work: every thread does its share of a range in
/// strides of threads().
MPC_DEVICE inline unsigned thread() {
#ifdef __CUDACC__
  return threadIdx.x;
#else
  return 0;
#endif
}
MPC_DEVICE constexpr unsigned threads() {
#ifdef __CUDACC__
  return kThreads;
#else
  return 1;
#endif
}

/// Which of the launch's teams this is, and how many there are.
MPC_DEVICE inline int64_t index() {
#ifdef __CUDACC__
  return blockIdx.x;
#else
  return 0;
#endif
}
MPC_DEVICE inline int64_t count() {
#ifdef __CUDACC__
  return gridDim.x;
#else
  return 1;
#endif
}

/// From here on the thread, or its team, works on item i of the launch. Only watched teams are told anything by that.
MPC_DEVICE inline void item(int64_t) {}

/// Waits until all threads of the team are here. Memory that any of them wrote before, all of them see. `Site` tells
/// barriers apart.
template <class Site>
MPC_DEVICE void barrier() {
#ifdef __CUDACC__
  __syncthreads();
#endif
}

/// Puts `value` where `none` is; false when something else is there. Of many threads one succeeds.
MPC_DEVICE inline bool puts(int32_t* place, int32_t none, int32_t value) {
#ifdef __CUDACC__
  return atomicCAS(place, none, value) == none;
#else
  if (*place != none) return false;
  *place = value;
  return true;
#endif
}

#ifndef __CUDACC__
template <class Run>
void launch(const char*, int64_t, Waits, const Run& run) {
  run();
}
#endif

#endif

/// f(t) for those of the team's first `most` threads that this one does the work of.
template <class F>
MPC_DEVICE void for_threads(unsigned most, F f) {
#ifdef __CUDACC__
  if (most == kThreads || thread() < most) f(thread());
#else
  for (unsigned t = thread(); t < most; t += threads()) f(t);
#endif
}

}  // namespace team
}  // namespace mpc::cuda
