#include <algorithm>
#include <cmath>
#include <vector>

#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

/// (batch, sequence, heads, width) in doubles.
struct Heads {
  explicit Heads(const TensorView& from) : shape(from.shape), values(load_numbers(from)) {}
  explicit Heads(const Shape& of) : shape(of), values(static_cast<size_t>(of.elements()), 0.0) {}
  double* row(int64_t batch, int64_t position, int64_t head) {
    return values.data() + ((batch * shape[1] + position) * shape[2] + head) * shape[3];
  }
  int64_t width() const { return shape[3]; }
  Shape shape;
  std::vector<double> values;
};

double dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void add_scaled(double* to, double factor, const double* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += factor * from[i];
}

/// How many keys query `i` looks at.
int64_t keys_of(const KernelCall& call, int64_t i, int64_t keys) {
  return call.attributes.flag("is_causal") ? std::min(i + 1, keys) : keys;
}

}  // namespace

void ScaledDotProductAttention(const KernelCall& call) {
  Heads q(call.inputs[0]), k(call.inputs[1]), v(call.inputs[2]), y(call.outputs[0].shape);
  const double scale = call.attributes.number("scale");
  const int64_t queries = q.shape[1];
  std::vector<double> log_sums(static_cast<size_t>(q.shape[0] * q.shape[2] * queries));
  std::vector<double> p(static_cast<size_t>(k.shape[1]));
  for (int64_t b = 0; b < q.shape[0]; ++b) {
    for (int64_t h = 0; h < q.shape[2]; ++h) {
      for (int64_t i = 0; i < queries; ++i) {
        const int64_t keys = keys_of(call, i, k.shape[1]);
        for (int64_t j = 0; j < keys; ++j)
          p[static_cast<size_t>(j)] = scale * dot(q.row(b, i, h), k.row(b, j, h), q.width());
        const double largest = *std::max_element(p.begin(), p.begin() + keys);
        double sum = 0;
        for (int64_t j = 0; j < keys; ++j) sum += std::exp(p[static_cast<size_t>(j)] - largest);
        for (int64_t j = 0; j < keys; ++j)
          add_scaled(y.row(b, i, h), std::exp(p[static_cast<size_t>(j)] - largest) / sum, v.row(b, j, h), v.width());
        log_sums[static_cast<size_t>((b * q.shape[2] + h) * queries + i)] = largest + std::log(sum);
      }
    }
  }
  store_all(call.outputs[0], y.values);
  if (call.has_output(1)) store_all(call.outputs[1], log_sums);
}

void ScaledDotProductAttentionGrad(const KernelCall& call) {
  Heads dy(call.inputs[0]), q(call.inputs[1]), k(call.inputs[2]), v(call.inputs[3]), y(call.inputs[4]);
  Heads dq(q.shape), dk(k.shape), dv(v.shape);
  const std::vector<double> log_sums = load_numbers(call.inputs[5]);
  const double scale = call.attributes.number("scale");
  const int64_t queries = q.shape[1];
  for (int64_t b = 0; b < q.shape[0]; ++b) {
    for (int64_t h = 0; h < q.shape[2]; ++h) {
      for (int64_t i = 0; i < queries; ++i) {
        const double log_sum = log_sums[static_cast<size_t>((b * q.shape[2] + h) * queries + i)];
        const double shared = dot(dy.row(b, i, h), y.row(b, i, h), v.width());
        const int64_t keys = keys_of(call, i, k.shape[1]);
        for (int64_t j = 0; j < keys; ++j) {
          const double p = std::exp(scale * dot(q.row(b, i, h), k.row(b, j, h), q.width()) - log_sum);
          const double ds = scale * p * (dot(dy.row(b, i, h), v.row(b, j, h), v.width()) - shared);
          add_scaled(dq.row(b, i, h), ds, k.row(b, j, h), q.width());
          add_scaled(dk.row(b, j, h), ds, q.row(b, i, h), q.width());
          add_scaled(dv.row(b, j, h), p, dy.row(b, i, h), v.width());
        }
      }
    }
  }
  const Heads* grads[] = {&dq, &dk, &dv};
  for (size_t i = 0; i < 3; ++i) {
    if (call.has_output(i)) store_all(call.outputs[i], grads[i]->values);
  }
}

}  // namespace mpc::reference
