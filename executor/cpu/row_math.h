#pragma once

#include <cstdint>

// Sums and maps over rows of f32 as vector code. Sums are taken in 16 lanes of f32 over at most kChunk elements, and
// chunk by chunk in f64: their bits depend on the row alone.

namespace mpc::cpu {

/// Sum of x[i].
double row_sum(const float* x, int64_t count);
/// Sum of a[i] * b[i].
double row_dot(const float* a, const float* b, int64_t count);
/// Sum of a[i] * (x[i] - mean).
double row_dot_centered(const float* a, const float* x, float mean, int64_t count);
/// Sum of a[i] * b[i] * (x[i] - mean).
double row_dot3_centered(const float* a, const float* b, const float* x, float mean, int64_t count);
/// Sum of (x[i] - mean)^2.
double row_square_sum(const float* x, float mean, int64_t count);
/// The largest (smallest) element; NaN if there is one. @pre count > 0.
float row_max(const float* x, int64_t count);
float row_min(const float* x, int64_t count);
/// out[i] = e^(x[i] - shift); returns the sum of them. `out` may be `x`.
double row_exp(const float* x, float shift, float* out, int64_t count);
/// The sum of e^(x[i] - shift).
double row_exp_sum(const float* x, float shift, int64_t count);
/// out[i] = x[i] * factor + offset. `out` may be `x`.
void row_affine(const float* x, float factor, float offset, float* out, int64_t count);
/// out[i] = (x[i] - mean) * factor * scale[i] + bias[i]; without bias when it is null. `out` may be `x`.
void row_normalize(const float* x, float mean, float factor, const float* scale, const float* bias, float* out,
                   int64_t count);
/// out[i] += x[i].
void row_add(const float* x, float* out, int64_t count);
void row_add(const float* x, double* out, int64_t count);

}  // namespace mpc::cpu
