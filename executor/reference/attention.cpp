#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "compiler/base/attention_parts.h"
#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

using Numbers = std::vector<double>;

/// A tensor (batch, sequence, heads, width), or where one lies in another.
struct Heads {
  double* row(int64_t batch, int64_t position, int64_t head) const {
    return numbers->data() + part.begin + batch * part.batch_step() + position * part.step + head * width();
  }
  int64_t positions() const { return part.shape[1]; }
  int64_t width() const { return part.shape[3]; }
  Numbers* numbers;
  AttentionPart part;
};

/// q, k and v, or their gradients: of three tensors or of one.
struct Parts {
  Parts(const KernelCall& call, size_t first)
      : parts(attention_parts([&](size_t i) -> const Shape& { return call.inputs[first + i].shape; })) {}
  Heads part(size_t i) { return {&operands[parts[i].operand], parts[i]}; }
  std::array<AttentionPart, kAttentionParts> parts;
  std::vector<Numbers> operands;
};

/// What the node at hand reads.
Parts load_parts(const KernelCall& call, size_t first) {
  Parts result(call, first);
  const size_t count = attention_operands(call.inputs[first].shape);
  for (size_t i = 0; i < count; ++i) result.operands.push_back(load_numbers(call.inputs[first + i]));
  return result;
}
/// Zeros of the same shapes.
Parts zero_parts(const Parts& like, const KernelCall& call, size_t first) {
  Parts result(call, first);
  for (const Numbers& numbers : like.operands) result.operands.emplace_back(numbers.size(), 0.0);
  return result;
}

double dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void add_scaled(double* to, double factor, const double* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += factor * from[i];
}

/// What is added to the scores of a call, whose operand `at` it is, if it is there.
class Mask {
 public:
  Mask(const KernelCall& call, size_t at) {
    if (!call.has_input(at)) return;
    numbers_ = load_numbers(call.inputs[at]);
    steps_.emplace(call.inputs[at].shape);
  }
  double at(int64_t batch, int64_t head, int64_t query, int64_t key) const {
    if (!steps_) return 0;
    const int64_t begin = batch * steps_->batch_step + head * steps_->head_step + query * steps_->query_step;
    return numbers_[static_cast<size_t>(begin + key)];
  }

 private:
  Numbers numbers_;
  std::optional<AttentionMask> steps_;
};

/// How many keys query `i` looks at.
int64_t keys_of(const KernelCall& call, int64_t i, int64_t keys) {
  return call.attributes.flag("is_causal") ? std::min(i + 1, keys) : keys;
}

}  // namespace

void ScaledDotProductAttention(const KernelCall& call) {
  Parts in = load_parts(call, 0);
  const Heads q = in.part(0), k = in.part(1), v = in.part(2);
  const Shape& y_shape = call.outputs[0].shape;
  Numbers y_numbers(static_cast<size_t>(y_shape.elements()), 0.0);
  const Heads y{&y_numbers, whole_attention_part(y_shape)};
  const double scale = call.attributes.number("scale");
  const int64_t queries = q.positions();
  const int64_t heads = y_shape[2];
  Numbers log_sums(static_cast<size_t>(y_shape[0] * heads * queries));
  Numbers p(static_cast<size_t>(k.positions()));
  const Mask mask(call, in.operands.size());
  for (int64_t b = 0; b < y_shape[0]; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < queries; ++i) {
        const int64_t keys = keys_of(call, i, k.positions());
        for (int64_t j = 0; j < keys; ++j)
          p[static_cast<size_t>(j)] = scale * dot(q.row(b, i, h), k.row(b, j, h), q.width()) + mask.at(b, h, i, j);
        const double largest = *std::max_element(p.begin(), p.begin() + keys);
        double sum = 0;
        for (int64_t j = 0; j < keys; ++j) sum += std::exp(p[static_cast<size_t>(j)] - largest);
        for (int64_t j = 0; j < keys; ++j)
          add_scaled(y.row(b, i, h), std::exp(p[static_cast<size_t>(j)] - largest) / sum, v.row(b, j, h), v.width());
        log_sums[static_cast<size_t>((b * heads + h) * queries + i)] = largest + std::log(sum);
      }
    }
  }
  store_all(call.outputs[0], y_numbers);
  if (call.has_output(1)) store_all(call.outputs[1], log_sums);
}

void ScaledDotProductAttentionGrad(const KernelCall& call) {
  Parts in = load_parts(call, 1);
  Parts grads = zero_parts(in, call, 1);
  const size_t operands = in.operands.size();
  const Heads q = in.part(0), k = in.part(1), v = in.part(2);
  const Heads dq = grads.part(0), dk = grads.part(1), dv = grads.part(2);
  Numbers dy_numbers = load_numbers(call.inputs[0]), y_numbers = load_numbers(call.inputs[1 + operands]);
  const AttentionPart whole = whole_attention_part(call.inputs[0].shape);
  const Heads dy{&dy_numbers, whole}, y{&y_numbers, whole};
  const Numbers log_sums = load_numbers(call.inputs[2 + operands]);
  const Mask mask(call, 3 + operands);
  const double scale = call.attributes.number("scale");
  const int64_t queries = q.positions();
  const int64_t heads = whole.shape[2];
  for (int64_t b = 0; b < whole.shape[0]; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < queries; ++i) {
        const double log_sum = log_sums[static_cast<size_t>((b * heads + h) * queries + i)];
        const double shared = dot(dy.row(b, i, h), y.row(b, i, h), v.width());
        const int64_t keys = keys_of(call, i, k.positions());
        for (int64_t j = 0; j < keys; ++j) {
          const double score = scale * dot(q.row(b, i, h), k.row(b, j, h), q.width()) + mask.at(b, h, i, j);
          const double p = std::exp(score - log_sum);
          const double ds = scale * p * (dot(dy.row(b, i, h), v.row(b, j, h), v.width()) - shared);
          add_scaled(dq.row(b, i, h), ds, k.row(b, j, h), q.width());
          add_scaled(dk.row(b, j, h), ds, q.row(b, i, h), q.width());
          add_scaled(dv.row(b, j, h), p, dy.row(b, i, h), v.width());
        }
      }
    }
  }
  for (size_t i = 0; i < operands; ++i) {
    if (call.has_output(i)) store_all(call.outputs[i], grads.operands[i]);
  }
}

}  // namespace mpc::reference
