#pragma once

#include <cstdint>

#include "compiler/base/half.h"

// The order in which TopK and ArgMax take elements, shared by every backend.

namespace mpc::functors {

/// Does `a` come before `b`, the greatest (least) first? NaN comes before every number; neither of two equals does.
template <class T>
MPC_HD bool comes_before(T a, T b, bool is_largest) {
  if (b != b) return false;
  if (a != a) return true;
  return is_largest ? a > b : a < b;
}

}  // namespace mpc::functors
