#ifndef MPC_NVRTC_STD_H
#define MPC_NVRTC_STD_H

// What the functors use of the standard library, for NVRTC, which has no headers: it is given this file under the names
// cmath, cstdint, cstring and type_traits.

using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long;
using uint64_t = unsigned long;

namespace std {

template <class T>
inline constexpr bool is_integral_v = false;
template <>
inline constexpr bool is_integral_v<int64_t> = true;
template <>
inline constexpr bool is_integral_v<uint64_t> = true;
template <class T>
inline constexpr bool is_floating_point_v = false;
template <>
inline constexpr bool is_floating_point_v<float> = true;
template <>
inline constexpr bool is_floating_point_v<double> = true;
template <class T>
inline constexpr bool is_signed_v = !is_integral_v<T> || T(-1) < T(0);

__device__ inline void* memcpy(void* to, const void* from, size_t bytes) {
  return ::memcpy(to, from, bytes);
}

// The functions that the standard overloads: of CUDA's library, as std::name is where nvcc compiles it.
#define MPC_FUNCTION(name)                  \
  __device__ inline float name(float x) {   \
    return ::name##f(x);                    \
  }                                         \
  __device__ inline double name(double x) { \
    return ::name(x);                       \
  }
#define MPC_FUNCTION_OF_TWO(name)                     \
  __device__ inline float name(float x, float y) {    \
    return ::name##f(x, y);                           \
  }                                                   \
  __device__ inline double name(double x, double y) { \
    return ::name(x, y);                              \
  }
// clang-format off
MPC_FUNCTION(acos) MPC_FUNCTION(acosh) MPC_FUNCTION(asin) MPC_FUNCTION(asinh) MPC_FUNCTION(atan) MPC_FUNCTION(atanh)
MPC_FUNCTION(ceil) MPC_FUNCTION(cos) MPC_FUNCTION(cosh) MPC_FUNCTION(erf) MPC_FUNCTION(exp) MPC_FUNCTION(expm1)
MPC_FUNCTION(fabs) MPC_FUNCTION(floor) MPC_FUNCTION(log) MPC_FUNCTION(log1p) MPC_FUNCTION(rint) MPC_FUNCTION(sin)
MPC_FUNCTION(sinh) MPC_FUNCTION(sqrt) MPC_FUNCTION(tan) MPC_FUNCTION(tanh) MPC_FUNCTION_OF_TWO(fmod)
MPC_FUNCTION_OF_TWO(pow)
// clang-format on
#undef MPC_FUNCTION
#undef MPC_FUNCTION_OF_TWO

}  // namespace std

#endif
