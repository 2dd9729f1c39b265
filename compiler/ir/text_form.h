#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "compiler/base/dtype.h"

// What the printer and the parser of the text form (docs/ir.md) agree on.

namespace mpc::text_form {

/// Literals with more elements are written as base64 of their bytes.
inline constexpr size_t kMostInlineElements = 16;
inline constexpr std::string_view kBase64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

inline bool is_bare_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
         c == '/' || c == ':' || c == '-' || c == '+' || c == '$';
}

/// May `name` stand without quotes?
inline bool is_bare_name(std::string_view name) {
  return !name.empty() && std::ranges::all_of(name, is_bare_char);
}

/// Writes the element that `text` stands for; false when it is not one of `dtype` or does not fit.
bool write_element(DType dtype, std::string_view text, std::byte* out);

}  // namespace mpc::text_form
