#include "compiler/base/sha256.h"

#include <algorithm>
#include <vector>

// The functions of one digest, which OpenSSL 3 calls deprecated in favour of EVP: linked statically they are 35 kB, EVP
// with all it can fetch is 4.7 MB (scripts/bundle).
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include "compiler/base/error.h"
#include "compiler/base/file.h"

namespace mpc {
namespace {

void require(int is_done, const char* what) {
  MPC_CHECK(is_done == 1, std::string("OpenSSL refused ") + what);
}

}  // namespace

Sha256::Sha256() : state_(std::make_unique<SHA256_CTX>()) {
  require(SHA256_Init(state_.get()), "to start SHA-256");
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> bytes) {
  require(SHA256_Update(state_.get(), bytes.data(), bytes.size()), "bytes for SHA-256");
}

Sha256::Digest Sha256::finish() {
  Digest digest;
  require(SHA256_Final(digest.data(), state_.get()), "to finish SHA-256");
  require(SHA256_Init(state_.get()), "to start SHA-256");
  return digest;
}

std::string hex_text(const Sha256::Digest& digest) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const uint8_t byte : digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string sha256_text(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hex_text(hash.finish());
}

std::string sha256_of_file(const std::string& path) {
  constexpr int64_t kPartBytes = 1 << 20;
  const InputFile file(path);
  Sha256 hash;
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(kPartBytes, file.bytes())));
  for (int64_t offset = 0; offset < file.bytes(); offset += kPartBytes) {
    const auto part = std::span(buffer).first(static_cast<size_t>(std::min(kPartBytes, file.bytes() - offset)));
    file.read(offset, part);
    hash.update(part);
  }
  return hex_text(hash.finish());
}

}  // namespace mpc
