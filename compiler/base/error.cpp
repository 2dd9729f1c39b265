#include "compiler/base/error.h"

#include "compiler/base/text.h"

#include <array>

#include <fmt/format.h>

namespace mpc {
namespace {

struct Row {
  std::string_view name;
  int exit_code;
  std::string_view meaning;
};

constexpr Row kRows[] = {
#define MPC_ERROR(id, exit_code, meaning) {#id, exit_code, meaning},
#include "mpc/errors.def"
#undef MPC_ERROR
};

}  // namespace

int exit_code(ErrorId id) {
  return kRows[static_cast<size_t>(id)].exit_code;
}
std::string_view error_name(ErrorId id) {
  return kRows[static_cast<size_t>(id)].name;
}
std::string_view error_meaning(ErrorId id) {
  return kRows[static_cast<size_t>(id)].meaning;
}

std::string escaped(std::string_view text, size_t max_bytes) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const unsigned char c = static_cast<unsigned char>(text[0]);
    size_t count = utf8_sequence_bytes(text);
    // U+0080..U+009F are control characters too (C1): they are encoded as C2 80..C2 9F.
    const bool is_c1 = count == 2 && c == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0;
    if (count == 0 || is_c1 || c < 0x20 || c == 0x7F) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", c);
      count = 1;
    } else {
      out.append(text.substr(0, count));
    }
    text.remove_prefix(count);
  }
  if (out.size() <= max_bytes) return out;
  // Cut in the middle: the start says where, the end says what to do. Step off UTF-8 continuation bytes at both cuts.
  const size_t keep = max_bytes > 5 ? (max_bytes - 5) / 2 : 0;
  size_t head = keep;
  size_t tail = out.size() - keep;
  while (head > 0 && (static_cast<unsigned char>(out[head]) & 0xC0) == 0x80) --head;
  while (tail < out.size() && (static_cast<unsigned char>(out[tail]) & 0xC0) == 0x80) ++tail;
  return out.substr(0, head) + " ... " + out.substr(tail);
}

Error::Error(ErrorId id, std::string where, std::string what_happened, std::string hint)
    : id_(id), where_(std::move(where)), what_happened_(std::move(what_happened)), hint_(std::move(hint)) {
  constexpr size_t kMaxWhereBytes = 500;
  std::string text = where_.empty() ? "" : escaped(where_, kMaxWhereBytes) + ": ";
  text += escaped(what_happened_, 1000);
  if (!hint_.empty()) text += "; " + escaped(hint_, 400);
  text_ = std::move(text);
}

Error Error::with_prefix(std::string_view prefix) const {
  std::string where = where_.empty() ? std::string(prefix) : std::string(prefix) + ": " + where_;
  return Error(id_, std::move(where), what_happened_, hint_);
}

void check_failed(const char* file, int line, const char* condition, const std::string& message) {
  const std::string_view path(file);
  const size_t slash = path.rfind('/');
  throw Error(ErrorId::M700, fmt::format("{}:{}", path.substr(slash == std::string_view::npos ? 0 : slash + 1), line),
              fmt::format("{} ({})", message, condition), "this is a bug in mpc, please report it");
}

}  // namespace mpc
