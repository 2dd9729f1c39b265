#pragma once

#include <algorithm>

namespace mpc::test {

/// How many of `count` random cases are tried: all, or under sanitizers, where each takes ten times as long, a tenth.
constexpr int sweep(int count) {
#ifdef MPC_IS_SANITIZED
  return std::max(1, count / 10);
#else
  return count;
#endif
}

}  // namespace mpc::test
