#include "executor/host/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstring>
#include <utility>

#include "compiler/base/error.h"
#include "compiler/base/text.h"

namespace mpc::executor {
namespace {

// Pages of 2 MiB save address translation, which large matrices otherwise wait for.
constexpr int64_t kHugePageBytes = int64_t{2} << 20;

}  // namespace

Arena::Arena(const std::string& device_name, int64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw Error(ErrorId::M070, fmt::format("device \"{}\"", device_name),
                fmt::format("{} bytes ({}) of host memory for its arena are not to be had", bytes, bytes_text(bytes)),
                "use more devices, a smaller batch or more micro-batches");
  }
  if (bytes >= kHugePageBytes) madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // advice: may be refused
  data_ = static_cast<std::byte*>(memory);
}

Arena::Arena(std::byte* data, int64_t bytes, std::function<void(std::byte*)> release)
    : data_(data), bytes_(bytes), release_(std::move(release)) {}

Arena::~Arena() {
  if (data_ == nullptr) return;
  if (release_) {
    release_(data_);
    return;
  }
  munmap(data_, static_cast<size_t>(bytes_));
}

Arena::Arena(Arena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      release_(std::move(other.release_)) {}

void Arena::poison() {
  executor::poison({data_, static_cast<size_t>(bytes_)});
}

void poison(std::span<std::byte> memory) {
  if (!memory.empty()) std::memset(memory.data(), static_cast<int>(kPoison), memory.size());
}

}  // namespace mpc::executor
