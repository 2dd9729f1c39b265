#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mpc::text_form {

/// A cursor over the text form (docs/ir.md). Every read skips blanks first; a read that does not find what it needs
/// throws Error(M064) with line and column. Never reads past the text; works on bytes, needs no UTF-8.
class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  /// Moves to the next line that holds a statement; false at the end of the text.
  bool next_statement();
  /// @throws when something is left on the line.
  void end_statement();
  bool at_line_end();

  /// Is `text` next? Punctuation only: words are compared with accept_word.
  bool accept(std::string_view text);
  void expect(std::string_view text);
  bool accept_word(std::string_view word);
  /// The characters of a bare name (may be empty, then nothing is consumed).
  std::string_view word();
  std::string_view expect_word(std::string_view what);
  /// A bare or quoted name, not longer than 4096 bytes.
  std::string name(std::string_view what);
  bool at_quote();
  std::string quoted_text();
  /// The content of a quoted text without escapes (base64): a view, so that large literals are not copied.
  std::string_view raw_quoted();
  int64_t integer(int64_t least, int64_t most, std::string_view what);

  /// Where the last read began: errors found later point there.
  size_t last() const { return last_; }
  [[noreturn]] void fail(const std::string& message) const { fail_at(last_, message); }
  [[noreturn]] void fail_at(size_t position, const std::string& message) const;
  [[noreturn]] void fail_limit(const std::string& message) const;

 private:
  void skip_blanks();
  void begin_read() {
    skip_blanks();
    last_ = position_;
  }
  std::string place(size_t position) const;
  std::string found() const;

  std::string_view text_;
  size_t position_ = 0;
  size_t last_ = 0;
};

}  // namespace mpc::text_form
