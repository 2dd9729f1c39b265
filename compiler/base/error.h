#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "mpc/error.h"

namespace mpc {

/// `text` with control bytes and invalid UTF-8 shown as \xNN, cut in the middle to at most `max_bytes`.
std::string escaped(std::string_view text, size_t max_bytes = 2000);

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& message);

}  // namespace mpc

/// States a fact about our own code after validation; user input must never reach it. Stays on in release (exit 70).
#define MPC_CHECK(condition, message)                                                 \
  do {                                                                                \
    if (!(condition)) ::mpc::check_failed(__FILE__, __LINE__, #condition, (message)); \
  } while (false)
