#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace mpc::executor {

/// The memory of one device, released with the object. On the host: page-aligned, zero when new.
class Arena {
 public:
  /// Memory of another device than the host. `release` gives it back.
  Arena(std::byte* data, int64_t bytes, std::function<void(std::byte*)> release);
  /// @throws Error(M070) naming the device and the bytes when the system has not that much.
  Arena(const std::string& device_name, int64_t bytes);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&&) = delete;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  /// @pre host memory. Fills everything with the poison pattern: a NaN in every float type, and an unlikely integer.
  void poison();

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  std::function<void(std::byte*)> release_;  // empty: host memory
};

/// All bits set is a NaN in f16, bf16, f32 and f64.
inline constexpr std::byte kPoison{0xFF};
/// Fills memory with the poison pattern of SessionOptions::poison.
void poison(std::span<std::byte> memory);

}  // namespace mpc::executor
