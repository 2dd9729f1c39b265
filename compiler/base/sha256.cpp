#include "compiler/base/sha256.h"

#include <algorithm>
#include <vector>

#include <openssl/evp.h>

#include "compiler/base/error.h"
#include "compiler/base/file.h"

namespace mpc {
namespace {

void require(int is_done, const char* what) {
  MPC_CHECK(is_done == 1, std::string("OpenSSL refused ") + what);
}

void begin(EVP_MD_CTX* context) {
  require(EVP_DigestInit_ex(context, EVP_sha256(), nullptr), "to start SHA-256");
}

}  // namespace

void Sha256::Release::operator()(evp_md_ctx_st* context) const {
  EVP_MD_CTX_free(context);
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  if (!context_) throw Error(ErrorId::M070, "SHA-256", "the host has no memory left");
  begin(context_.get());
}

void Sha256::update(std::span<const std::byte> bytes) {
  require(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()), "bytes for SHA-256");
}

Sha256::Digest Sha256::finish() {
  Digest digest;
  require(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr), "to finish SHA-256");
  begin(context_.get());
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
