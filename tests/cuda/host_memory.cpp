#include <cstring>

#include "executor/cuda/launch.h"

// What the kernels need of a device's memory, on the host.

namespace mpc::cuda {

void copy_bytes(Stream, void* to, const void* from, int64_t bytes) {
  if (bytes > 0) std::memmove(to, from, static_cast<size_t>(bytes));
}

void fill_bytes(Stream, void* to, int byte, int64_t bytes) {
  if (bytes > 0) std::memset(to, byte, static_cast<size_t>(bytes));
}

}  // namespace mpc::cuda
