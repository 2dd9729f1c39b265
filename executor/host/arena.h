#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace mpc::executor {

/// The memory of one device: page-aligned, zero when new, released with the object.
class Arena {
 public:
  /// @throws Error(M070) naming the device and the bytes when the system has not that much.
  Arena(const std::string& device_name, int64_t bytes);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&&) = delete;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  /// Fills everything with the poison pattern: a NaN in every float type, and an unlikely integer.
  void poison();

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// The poison pattern of SessionOptions::poison.
void poison(std::span<std::byte> memory);

}  // namespace mpc::executor
