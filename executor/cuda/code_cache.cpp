#include "executor/cuda/code_cache.h"

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>

#include "compiler/base/env.h"

namespace mpc::cuda {
namespace {

constexpr std::string_view kMagic = "mpc cuda cache 1\n";

/// FNV-1a, 64 bits (Fowler, Noll, Vo): names files and finds damaged ones; it guards against nobody.
uint64_t hash_of(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  return hash;
}

std::string hex(uint64_t value) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text(16, '0');
  for (size_t i = text.size(); i-- > 0; value >>= 4) text[i] = kDigits[value & 0xF];
  return text;
}

/// What stands before the content in a file.
std::string head_of(const std::string& key, const std::string& content) {
  return std::string(kMagic) + std::to_string(key.size()) + " " + std::to_string(content.size()) + " " +
         hex(hash_of(content)) + "\n" + key;
}

std::string default_folder() {
  const auto variable = [](const char* name) -> const char* { return std::getenv(name); };
  const std::string given = read_environment(variable).cuda_cache;
  if (given == "none") return "";
  if (!given.empty()) return given;
  if (const char* cache = variable("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    return std::string(cache) + "/mpc/cuda";
  }
  const char* home = variable("HOME");
  return home != nullptr && *home != '\0' ? std::string(home) + "/.cache/mpc/cuda" : "";
}

}  // namespace

CodeCache::CodeCache() : folder_(default_folder()) {}

std::string CodeCache::path(const std::string& key) const {
  return folder_ + "/" + hex(hash_of(key));
}

std::optional<std::string> CodeCache::find(const std::string& key) const {
  if (folder_.empty()) return std::nullopt;
  std::ifstream file(path(key), std::ios::binary);
  if (!file) return std::nullopt;
  const std::string all{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  // The head's length depends on the content's: try what is left after the first line and the key.
  const size_t line = all.find('\n', kMagic.size());
  if (line == std::string::npos || all.size() < line + 1 + key.size()) return std::nullopt;
  std::string content = all.substr(line + 1 + key.size());
  if (all.compare(0, line + 1 + key.size(), head_of(key, content)) != 0) return std::nullopt;
  return content;
}

void CodeCache::keep(const std::string& key, const std::string& content) const {
  if (folder_.empty()) return;
  std::error_code failed;
  std::filesystem::create_directories(folder_, failed);
  // Written beside and renamed: others see the old file or the whole new one.
  const std::string whole = path(key);
  const std::string part = whole + "." + std::to_string(getpid());
  std::ofstream file(part, std::ios::binary);
  file << head_of(key, content) << content;
  file.close();
  if (file.fail()) {
    std::filesystem::remove(part, failed);
    return;
  }
  std::filesystem::rename(part, whole, failed);
  if (failed) std::filesystem::remove(part, failed);
}

}  // namespace mpc::cuda
