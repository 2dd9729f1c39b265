#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace mpc {

/// SHA-256 of a stream of bytes (FIPS 180-4).
class Sha256 {
 public:
  using Digest = std::array<uint8_t, 32>;

  void update(std::span<const std::byte> bytes);
  /// The digest of everything so far; the object starts again from nothing.
  Digest finish();

 private:
  static constexpr size_t kBlockBytes = 64;
  using State = std::array<uint32_t, 8>;
  static constexpr State kInitial = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

  void compress(const std::byte* block);

  State state_ = kInitial;
  std::array<std::byte, kBlockBytes> pending_{};
  uint64_t bytes_ = 0;  // seen so far; the last bytes_ % 64 of them are in pending_
};

/// 64 lower-case hexadecimal digits.
std::string hex_text(const Sha256::Digest& digest);
/// The digest of `bytes`, as hex_text.
std::string sha256_text(std::span<const std::byte> bytes);
/// The digest of a file, as hex_text, in bounded memory. @throws as InputFile.
std::string sha256_of_file(const std::string& path);

}  // namespace mpc
