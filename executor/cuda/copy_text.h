#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string_view>

namespace mpc::cuda {

/// Copies what fits of `text` into a field of the C interface, and ends it with a zero.
template <size_t kBytes>
void copy_text(char (&to)[kBytes], std::string_view text) {
  const size_t length = std::min(text.size(), kBytes - 1);
  std::memcpy(to, text.data(), length);
  to[length] = '\0';
}

}  // namespace mpc::cuda
