#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

struct SHA256state_st;  // OpenSSL's SHA256_CTX

namespace mpc {

/// SHA-256 of a stream of bytes (FIPS 180-4), by OpenSSL.
class Sha256 {
 public:
  using Digest = std::array<uint8_t, 32>;

  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(std::span<const std::byte> bytes);
  /// The digest of everything so far; the object starts again from nothing.
  Digest finish();

 private:
  std::unique_ptr<SHA256state_st> state_;
};

/// 64 lower-case hexadecimal digits.
std::string hex_text(const Sha256::Digest& digest);
/// The digest of `bytes`, as hex_text.
std::string sha256_text(std::span<const std::byte> bytes);
/// The digest of a file, as hex_text, in bounded memory. @throws as InputFile.
std::string sha256_of_file(const std::string& path);

}  // namespace mpc
