#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "compiler/base/half.h"

// Scalar maths of the elementwise operators with two operands, shared by every backend.
//
// A functor F has `T F::value(T a, T b)`, or `bool F::value(T a, T b)` for a comparison, with T = float, double,
// int64_t or uint64_t. Integers wrap. Integer division needs a divisor other than 0: the caller checks it.

namespace mpc::functors {

struct Add {
  template <class T>
  MPC_HD static T value(T a, T b) {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
    else
      return a + b;
  }
};

struct Sub {
  template <class T>
  MPC_HD static T value(T a, T b) {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
    else
      return a - b;
  }
};

struct Mul {
  template <class T>
  MPC_HD static T value(T a, T b) {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
    else
      return a * b;
  }
};

/// Integers are divided towards zero; the smallest one divided by -1 wraps to itself. @pre b != 0 for integers.
struct Div {
  template <class T>
  MPC_HD static T value(T a, T b) {
    if constexpr (std::is_signed_v<T> && std::is_integral_v<T>) {
      if (b == -1) return Sub::value(T(0), a);
    }
    return a / b;
  }
};

/// NaN in either operand gives NaN.
struct Max {
  template <class T>
  MPC_HD static T value(T a, T b) {
    return a >= b || a != a ? a : b;
  }
};

struct Min {
  template <class T>
  MPC_HD static T value(T a, T b) {
    return a <= b || a != a ? a : b;
  }
};

/// The remainder with the sign of the divisor. Integers only. @pre b != 0.
struct FloorMod {
  template <class T>
  MPC_HD static T value(T a, T b) {
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return 0;
      const T rest = a % b;
      return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
    } else {
      return a % b;
    }
  }
};

/// The remainder with the sign of the dividend. @pre b != 0 for integers.
struct TruncMod {
  template <class T>
  MPC_HD static T value(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      return std::fmod(a, b);
    } else {
      if constexpr (std::is_signed_v<T>) {
        if (b == -1) return 0;
      }
      return a % b;
    }
  }
};

/// x < 0 ? slope * x : x.
struct PRelu {
  template <class T>
  MPC_HD static T value(T x, T slope) {
    return x < 0 ? Mul::value(slope, x) : x;
  }
};

/// Integers to a negative power are truncated towards zero: 0 unless the base is 1 or -1.
/// @pre for integers: not (a == 0 and b < 0).
struct Pow {
  template <class T>
  MPC_HD static T value(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      return std::pow(a, b);
    } else {
      if constexpr (std::is_signed_v<T>) {
        if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 == 0 ? 1 : -1) : 0;
      }
      T result = 1;
      for (uint64_t rest = static_cast<uint64_t>(b); rest != 0; rest >>= 1) {
        if ((rest & 1) != 0) result = Mul::value(result, a);
        a = Mul::value(a, a);
      }
      return result;
    }
  }
};

struct Equal {
  template <class T>
  MPC_HD static bool value(T a, T b) {
    return a == b;
  }
};

struct Greater {
  template <class T>
  MPC_HD static bool value(T a, T b) {
    return a > b;
  }
};

struct GreaterOrEqual {
  template <class T>
  MPC_HD static bool value(T a, T b) {
    return a >= b;
  }
};

struct Less {
  template <class T>
  MPC_HD static bool value(T a, T b) {
    return a < b;
  }
};

struct LessOrEqual {
  template <class T>
  MPC_HD static bool value(T a, T b) {
    return a <= b;
  }
};

struct And {
  template <class T>
  MPC_HD static bool value(T a, T b) {
    return a != 0 && b != 0;
  }
};

struct Or {
  template <class T>
  MPC_HD static bool value(T a, T b) {
    return a != 0 || b != 0;
  }
};

struct Xor {
  template <class T>
  MPC_HD static bool value(T a, T b) {
    return (a != 0) != (b != 0);
  }
};

}  // namespace mpc::functors
