#include "executor/cpu/row_math.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "executor/cpu/support.h"
#include "executor/cpu/vector_math.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kChunk = 1024;  // elements added in f32: the error stays that of 64 additions

// Vectors are never passed by value: how that is done depends on the instruction set, and these functions have clones.
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));

[[gnu::always_inline]] inline void load(const float* from, Lanes& to) {
  std::memcpy(&to, from, sizeof to);
}

/// Adds up terms: in_lanes(sum, i) adds the terms i .. i + 15 to `sum`, single(i) is term i.
template <class InLanes, class Single>
[[gnu::always_inline]] inline double lane_sum(int64_t count, InLanes&& in_lanes, Single&& single) {
  double total = 0;
  const int64_t in_vectors = count - count % kLanes;
  for (int64_t begin = 0; begin < in_vectors; begin += kChunk) {
    Lanes sum{};
    const int64_t end = std::min(begin + kChunk, in_vectors);
    for (int64_t i = begin; i < end; i += kLanes) in_lanes(sum, i);
    for (int64_t lane = 0; lane < kLanes; ++lane) total += static_cast<double>(sum[lane]);
  }
  for (int64_t i = in_vectors; i < count; ++i) total += static_cast<double>(single(i));
  return total;
}

}  // namespace

MPC_CLONES double row_sum(const float* x, int64_t count) {
  return lane_sum(
      count,
      [x](Lanes & sum, int64_t i) __attribute__((always_inline)) {
        Lanes value;
        load(x + i, value);
        sum += value;
      },
      [x](int64_t i) { return x[i]; });
}

MPC_CLONES double row_dot(const float* a, const float* b, int64_t count) {
  return lane_sum(
      count,
      [=](Lanes & sum, int64_t i) __attribute__((always_inline)) {
        Lanes left, right;
        load(a + i, left);
        load(b + i, right);
        sum += left * right;
      },
      [=](int64_t i) { return a[i] * b[i]; });
}

MPC_CLONES double row_dot_centered(const float* a, const float* x, float mean, int64_t count) {
  return lane_sum(
      count,
      [=](Lanes & sum, int64_t i) __attribute__((always_inline)) {
        Lanes left, right;
        load(a + i, left);
        load(x + i, right);
        sum += left * (right - mean);
      },
      [=](int64_t i) { return a[i] * (x[i] - mean); });
}

MPC_CLONES double row_dot3_centered(const float* a, const float* b, const float* x, float mean, int64_t count) {
  return lane_sum(
      count,
      [=](Lanes & sum, int64_t i) __attribute__((always_inline)) {
        Lanes first, second, third;
        load(a + i, first);
        load(b + i, second);
        load(x + i, third);
        sum += first * second * (third - mean);
      },
      [=](int64_t i) { return a[i] * b[i] * (x[i] - mean); });
}

MPC_CLONES double row_square_sum(const float* x, float mean, int64_t count) {
  return lane_sum(
      count,
      [=](Lanes & sum, int64_t i) __attribute__((always_inline)) {
        Lanes value;
        load(x + i, value);
        value -= mean;
        sum += value * value;
      },
      [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
}

namespace {

/// A number that is larger for larger elements, and largest for NaN: the largest of integers is found by vectors.
[[gnu::always_inline]] inline int32_t rank_of(float value) {
  constexpr int32_t kInfinity = 0x7F800000;
  constexpr int32_t kNan = 0x7FC00000;
  const int32_t bits = std::bit_cast<int32_t>(value);
  const int32_t magnitude = bits & 0x7FFFFFFF;
  const int32_t rank = bits ^ ((bits >> 31) & 0x7FFFFFFF);  // below 0 the magnitude counts down
  return magnitude > kInfinity ? kNan : rank;
}

[[gnu::always_inline]] inline float of_rank(int32_t rank) {
  return std::bit_cast<float>(rank ^ ((rank >> 31) & 0x7FFFFFFF));
}

}  // namespace

MPC_CLONES float row_max(const float* x, int64_t count) {
  int32_t best = rank_of(x[0]);
  for (int64_t i = 1; i < count; ++i) best = std::max(best, rank_of(x[i]));
  return of_rank(best);
}

MPC_CLONES float row_min(const float* x, int64_t count) {
  int32_t best = rank_of(-x[0]);
  for (int64_t i = 1; i < count; ++i) best = std::max(best, rank_of(-x[i]));
  return -of_rank(best);
}

namespace {

MPC_CLONES void exp_map(const float* x, float shift, float* out, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = fast_exp(x[i] - shift);
}

}  // namespace

double row_exp(const float* x, float shift, float* out, int64_t count) {
  exp_map(x, shift, out, count);
  return row_sum(out, count);
}

double row_exp_sum(const float* x, float shift, int64_t count) {
  float values[kChunk];
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    total += row_exp(x + begin, shift, values, std::min(kChunk, count - begin));
  }
  return total;
}

MPC_CLONES void row_affine(const float* x, float factor, float offset, float* out, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = x[i] * factor + offset;
}

MPC_CLONES void row_normalize(const float* x, float mean, float factor, const float* scale, const float* bias,
                              float* out, int64_t count) {
  if (bias == nullptr) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = (x[i] - mean) * factor * scale[i];
    return;
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = (x[i] - mean) * factor * scale[i] + bias[i];
}

MPC_CLONES void row_add(const float* x, float* out, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] += x[i];
}

MPC_CLONES void row_add(const float* x, double* out, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] += static_cast<double>(x[i]);
}

}  // namespace mpc::cpu
