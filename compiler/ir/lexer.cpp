#include "compiler/ir/lexer.h"

#include <algorithm>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "compiler/ir/text_form.h"

namespace mpc::text_form {
namespace {

constexpr size_t kMostNameBytes = 4096;

std::optional<int> hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

}  // namespace

void Lexer::skip_blanks() {
  while (position_ < text_.size() && (text_[position_] == ' ' || text_[position_] == '\t' || text_[position_] == '\r'))
    ++position_;
  if (position_ < text_.size() && text_[position_] == '#')
    position_ = std::min(text_.find('\n', position_), text_.size());
}

bool Lexer::at_line_end() {
  begin_read();
  return position_ == text_.size() || text_[position_] == '\n';
}

bool Lexer::next_statement() {
  while (at_line_end()) {
    if (position_ == text_.size()) return false;
    ++position_;
  }
  return true;
}

void Lexer::end_statement() {
  if (!at_line_end()) fail("the end of the line is expected, " + found());
}

std::string Lexer::found() const {
  if (last_ == text_.size()) return "found the end of the text";
  const size_t end = std::min(text_.find('\n', last_), text_.size());
  return end == last_ ? "found the end of the line"
                      : "found '" + escaped(text_.substr(last_, std::min<size_t>(end - last_, 24))) + "'";
}

bool Lexer::accept(std::string_view text) {
  begin_read();
  if (!text_.substr(position_).starts_with(text)) return false;
  position_ += text.size();
  return true;
}

void Lexer::expect(std::string_view text) {
  if (!accept(text)) fail(fmt::format("'{}' is expected, {}", text, found()));
}

std::string_view Lexer::word() {
  begin_read();
  const size_t begin = position_;
  while (position_ < text_.size() && is_bare_char(text_[position_])) ++position_;
  return text_.substr(begin, position_ - begin);
}

bool Lexer::accept_word(std::string_view expected) {
  const size_t before = position_;
  if (word() == expected) return true;
  position_ = before;
  return false;
}

std::string_view Lexer::expect_word(std::string_view what) {
  const std::string_view read = word();
  if (read.empty()) fail(fmt::format("{} is expected, {}", what, found()));
  return read;
}

bool Lexer::at_quote() {
  begin_read();
  return position_ < text_.size() && text_[position_] == '"';
}

std::string Lexer::name(std::string_view what) {
  const bool is_quoted = at_quote();
  const size_t begin = last_;
  std::string read = is_quoted ? quoted_text() : std::string(expect_word(what));
  last_ = begin;
  if (read.size() > kMostNameBytes)
    fail_limit(fmt::format("{} has {} bytes, the limit is {}", what, read.size(), kMostNameBytes));
  return read;
}

std::string Lexer::quoted_text() {
  begin_read();
  std::string out;
  size_t i = position_ + 1;
  const auto at = [&](size_t k) { return k < text_.size() ? text_[k] : '\n'; };
  if (at(position_) != '"') fail("a quoted text is expected, " + found());
  for (; at(i) != '"'; ++i) {
    if (at(i) == '\n') fail("the quoted text has no end on its line");
    if (at(i) != '\\') {
      out += at(i);
      continue;
    }
    const char kind = at(++i);
    if (kind == 'x') {
      const auto high = hex_digit(at(i + 1));
      const auto low = hex_digit(at(i + 2));
      if (!high || !low) fail_at(i - 1, "\\x takes two hexadecimal digits");
      out += static_cast<char>(*high * 16 + *low);
      i += 2;
    } else if (kind == 'n' || kind == 't') {
      out += kind == 'n' ? '\n' : '\t';
    } else if (kind == '"' || kind == '\\') {
      out += kind;
    } else {
      fail_at(i - 1, "an unknown escape; \\\" \\\\ \\n \\t \\xNN exist");
    }
  }
  position_ = i + 1;
  return out;
}

std::string_view Lexer::raw_quoted() {
  begin_read();
  const size_t line_end = std::min(text_.find('\n', position_), text_.size());
  const size_t end = text_.find('"', position_ + 1);
  if (!text_.substr(position_).starts_with('"') || end == std::string_view::npos || end > line_end) {
    fail("a quoted text is expected, " + found());
  }
  const std::string_view content = text_.substr(position_ + 1, end - position_ - 1);
  position_ = end + 1;
  return content;
}

int64_t Lexer::integer(int64_t least, int64_t most, std::string_view what) {
  const auto value = parse_integer(expect_word(what));
  if (!value || *value < least || *value > most)
    fail(fmt::format("{} in [{}, {}] is expected, {}", what, least, most, found()));
  return *value;
}

// Only errors need the line: counting it here keeps every read free of it.
std::string Lexer::place(size_t position) const {
  const std::string_view before = text_.substr(0, position);
  const size_t line_begin = before.rfind('\n') + 1;  // npos + 1 == 0: the first line
  return fmt::format("{}:{}", std::ranges::count(before, '\n') + 1, position - line_begin + 1);
}

void Lexer::fail_at(size_t position, const std::string& message) const {
  throw Error(ErrorId::M064, place(position), message);
}

void Lexer::fail_limit(const std::string& message) const {
  throw Error(ErrorId::M051, place(last_), message);
}

}  // namespace mpc::text_form
