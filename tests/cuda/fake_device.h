#pragma once

#include <cstdint>
#include <string>

#include "executor/cuda/abi.h"

// A plugin without a GPU: memory is the host's, kernels are the CUDA backend's own compiled for the host, and streams
// are queues of work that is put off. A stream's work is done when somebody waits for it, and then in a random order
// among the streams, as far as their events allow. What is not ordered by events shows as wrong results.

namespace mpc::test {

struct FakeOptions {
  int devices = 1;                           // GPUs
  uint64_t seed = 1;                         // of the order
  int64_t memory_bytes = int64_t{16} << 30;  // of each GPU
  bool has_peer_access = true;
  bool forgets_waits = false;  // streams wait for no events: what the tests must notice
  bool loses_copies = false;   // copies between GPUs deliver nothing
};

/// What was asked of the plugin since fake_plugin().
struct FakeCounts {
  int64_t kernels = 0;        // run one by one
  int64_t replayed = 0;       // run by graphs
  int64_t graphs = 0;         // captured
  int64_t staged_copies = 0;  // between device memory and pinned memory within a step or probe
  int64_t device_copies = 0;  // copy_peer within one GPU
  int64_t peer_copies = 0;    // copy_peer between GPUs
  int64_t nccl_copies = 0;    // copy_nccl
  int64_t allocations = 0;    // of device or pinned memory
  int64_t launches = 0;       // kernels of the GPU that the kernels above are made of
  int64_t compared = 0;       // pairs of accesses to the same bytes that had to be ordered (stream_order.h)
  int64_t unordered = 0;      // and that were not
  int64_t live_objects = 0;   // devices, streams, events, graphs, kernels and memory that were not given back
};

/// The plugin, with these options. One at a time; everything that was made from the one before must be gone.
const mpc_cuda_plugin* fake_plugin(const FakeOptions& options = {});
const FakeCounts& fake_counts();
/// The first pair of accesses that nothing orders, in words; "" when there is none.
std::string fake_unordered();

}  // namespace mpc::test
