#include <cstring>

#include "executor/cuda/launch.h"

// What the kernels need of a device's memory, on the host.

namespace mpc::cuda {

namespace {

int64_t launches = 0;

}  // namespace

void count_launch() {
  ++launches;
}

int64_t launches_on_host() {
  return launches;
}

void copy_bytes(Stream, void* to, const void* from, int64_t bytes) {
  if (bytes > 0) count_launch();
  if (bytes > 0) std::memmove(to, from, static_cast<size_t>(bytes));
}

void fill_bytes(Stream, void* to, int byte, int64_t bytes) {
  if (bytes > 0) count_launch();
  if (bytes > 0) std::memset(to, byte, static_cast<size_t>(bytes));
}

}  // namespace mpc::cuda
