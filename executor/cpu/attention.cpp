// Attention and its gradient in f32, from f32, f16 or bf16, one head of one batch at a time. Scores of a query are
// summed over the width in ascending order, for all keys at once; so are the results over the keys. No sum depends on
// how heads are shared by threads.

#include <cmath>

#include "compiler/base/attention_parts.h"
#include "compiler/base/half.h"
#include "executor/cpu/factories.h"
#include "executor/cpu/row_math.h"
#include "executor/cpu/support.h"

namespace mpc::cpu {
namespace {

MPC_CLONES void add_scaled(const float* x, float factor, float* out, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] += factor * x[i];
}

void fill(float* out, float value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = value;
}

float read(const TensorView& from, int64_t i) {
  if (from.dtype == DType::f32) return from.as<const float>()[i];
  return from.dtype == DType::bf16 ? to_float(from.as<const bf16>()[i]) : to_float(from.as<const f16>()[i]);
}

void write(const TensorView& to, int64_t i, float value) {
  if (to.dtype == DType::f32) {
    to.as<float>()[i] = value;
  } else if (to.dtype == DType::bf16) {
    to.as<bf16>()[i] = to_bf16(value);
  } else {
    to.as<f16>()[i] = to_f16(value);
  }
}

/// One head of one batch of a tensor (batch, sequence, heads, width), or of where one lies in another.
struct Head {
  Head(const TensorView& of, const AttentionPart& part, int64_t index)
      : view(of),
        positions(part.shape[1]),
        width(part.shape[3]),
        step(part.step),
        first(part.begin + index / part.shape[2] * part.batch_step() + index % part.shape[2] * width) {}
  Head(const TensorView& of, int64_t index) : Head(of, whole_attention_part(of.shape), index) {}

  void read_row(int64_t position, float* out) const {
    for (int64_t d = 0; d < width; ++d) out[d] = read(view, first + position * step + d);
  }
  void write_row(int64_t position, const float* values) const {
    for (int64_t d = 0; d < width; ++d) write(view, first + position * step + d, values[d]);
  }
  /// (positions, width).
  void read_all(float* out) const {
    for (int64_t i = 0; i < positions; ++i) read_row(i, out + i * width);
  }
  /// (width, positions).
  void read_transposed(float* out) const {
    for (int64_t i = 0; i < positions; ++i) {
      for (int64_t d = 0; d < width; ++d) out[d * positions + i] = read(view, first + i * step + d);
    }
  }

  const TensorView& view;
  int64_t positions;
  int64_t width;
  int64_t step;  // elements from a position to the next
  int64_t first;
};

/// q, k and v of a call, at `first` of its operands.
class Parts {
 public:
  Parts(const KernelCall& call, size_t first)
      : call_(call),
        first_(first),
        parts_(attention_parts([&](size_t i) -> const Shape& { return call.inputs[first + i].shape; })) {}
  const AttentionPart& operator[](size_t i) const { return parts_[i]; }
  int64_t heads() const { return parts_[0].shape[0] * parts_[0].shape[2]; }
  /// The operand after the last of them.
  size_t end() const { return first_ + attention_operands(call_.inputs[first_].shape); }
  Head head(size_t i, int64_t index) const { return Head(call_.inputs[first_ + parts_[i].operand], parts_[i], index); }
  /// The gradient of the same, among the results.
  bool has_grad(size_t i) const { return call_.has_output(parts_[i].operand); }
  Head grad_head(size_t i, int64_t index) const { return Head(call_.outputs[parts_[i].operand], parts_[i], index); }

 private:
  const KernelCall& call_;
  size_t first_;
  std::array<AttentionPart, kAttentionParts> parts_;
};

/// Gives out parts of one piece of scratch memory.
class Scratch {
 public:
  explicit Scratch(int64_t elements)
      : next_(reinterpret_cast<float*>(thread_scratch(elements * static_cast<int64_t>(sizeof(float))).data())) {}
  float* take(int64_t elements) {
    float* part = next_;
    next_ += elements;
    return part;
  }

 private:
  float* next_;
};

/// out[j] = sum over d of x[d] * columns[d][j].
void product(const float* x, const float* columns, int64_t width, int64_t stride, float* out, int64_t count) {
  fill(out, 0, count);
  for (int64_t d = 0; d < width; ++d) add_scaled(columns + d * stride, x[d], out, count);
}

/// What is added to the scores of a head, if operand `at` of the call is there. In f32.
class Mask {
 public:
  Mask(const KernelCall& call, size_t at, int64_t heads, int64_t index) {
    if (!call.has_input(at)) return;
    const AttentionMask steps(call.inputs[at].shape);
    query_step_ = steps.query_step;
    first_ = call.inputs[at].as<const float>() + index / heads * steps.batch_step + index % heads * steps.head_step;
  }
  void add_to(float* scores, int64_t query, int64_t keys) const {
    if (first_ != nullptr) add_scaled(first_ + query * query_step_, 1.0f, scores, keys);
  }

 private:
  const float* first_ = nullptr;
  int64_t query_step_ = 0;
};

/// How many keys a query looks at.
int64_t keys_of(const KernelCall& call, int64_t query, int64_t keys) {
  return call.attributes.flag("is_causal") ? query + 1 : keys;
}

void attend(const KernelCall& call, int64_t index) {
  const Parts parts(call, 0);
  const Head q = parts.head(0, index), k = parts.head(1, index), v = parts.head(2, index), y(call.outputs[0], index);
  const float scale = static_cast<float>(call.attributes.number("scale"));
  const Mask mask(call, parts.end(), parts[0].shape[2], index);
  Scratch scratch(k.positions * (k.width + v.width + 1) + q.width + v.width);
  float* const k_columns = scratch.take(k.positions * k.width);
  float* const v_rows = scratch.take(v.positions * v.width);
  float* const scores = scratch.take(k.positions);
  float* const q_row = scratch.take(q.width);
  float* const y_row = scratch.take(v.width);
  k.read_transposed(k_columns);
  v.read_all(v_rows);
  for (int64_t i = 0; i < q.positions; ++i) {
    const int64_t keys = keys_of(call, i, k.positions);
    q.read_row(i, q_row);
    product(q_row, k_columns, k.width, k.positions, scores, keys);
    row_affine(scores, scale, 0.0f, scores, keys);
    mask.add_to(scores, i, keys);
    const float largest = row_max(scores, keys);
    const double sum = row_exp(scores, largest, scores, keys);
    product(scores, v_rows, keys, v.width, y_row, v.width);
    row_affine(y_row, static_cast<float>(1.0 / sum), 0.0f, y_row, v.width);
    y.write_row(i, y_row);
    if (call.has_output(1))
      write(call.outputs[1], index * q.positions + i, largest + static_cast<float>(std::log(sum)));
  }
}

void attend_grad(const KernelCall& call, int64_t index) {
  const Parts parts(call, 1);
  const Head q = parts.head(0, index), k = parts.head(1, index), v = parts.head(2, index);
  const Head dy(call.inputs[0], index), y(call.inputs[parts.end()], index);
  const TensorView& log_sums = call.inputs[parts.end() + 1];
  const float scale = static_cast<float>(call.attributes.number("scale"));
  const Mask mask(call, parts.end() + 2, parts[0].shape[2], index);
  Scratch scratch(k.positions * (3 * k.width + 2 * v.width + 2) + 2 * q.width + 2 * v.width);
  float* const k_columns = scratch.take(k.positions * k.width);
  float* const k_rows = scratch.take(k.positions * k.width);
  float* const v_columns = scratch.take(v.positions * v.width);
  float* const dk = scratch.take(k.positions * k.width);
  float* const dv = scratch.take(v.positions * v.width);
  float* const p = scratch.take(k.positions);
  float* const ds = scratch.take(k.positions);
  float* const q_row = scratch.take(q.width);
  float* const dq_row = scratch.take(q.width);
  float* const dy_row = scratch.take(v.width);
  float* const y_row = scratch.take(v.width);
  k.read_transposed(k_columns);
  k.read_all(k_rows);
  v.read_transposed(v_columns);
  fill(dk, 0, k.positions * k.width);
  fill(dv, 0, v.positions * v.width);
  for (int64_t i = 0; i < q.positions; ++i) {
    const int64_t keys = keys_of(call, i, k.positions);
    q.read_row(i, q_row);
    dy.read_row(i, dy_row);
    y.read_row(i, y_row);
    product(q_row, k_columns, k.width, k.positions, p, keys);
    row_affine(p, scale, 0.0f, p, keys);
    mask.add_to(p, i, keys);
    row_exp(p, read(log_sums, index * q.positions + i), p, keys);
    product(dy_row, v_columns, v.width, v.positions, ds, keys);
    const float shared = static_cast<float>(row_dot(dy_row, y_row, v.width));
    for (int64_t j = 0; j < keys; ++j) ds[j] = scale * p[j] * (ds[j] - shared);
    product(ds, k_rows, keys, k.width, dq_row, k.width);
    if (parts.has_grad(0)) parts.grad_head(0, index).write_row(i, dq_row);
    for (int64_t j = 0; j < keys; ++j) add_scaled(q_row, ds[j], dk + j * k.width, k.width);
    for (int64_t j = 0; j < keys; ++j) add_scaled(dy_row, p[j], dv + j * v.width, v.width);
  }
  for (int64_t j = 0; j < k.positions; ++j) {
    if (parts.has_grad(1)) parts.grad_head(1, index).write_row(j, dk + j * k.width);
    if (parts.has_grad(2)) parts.grad_head(2, index).write_row(j, dv + j * v.width);
  }
}

void attention(const KernelCall& call, int threads) {
  parallel_for(threads, Parts(call, 0).heads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) attend(call, i);
  });
}

void attention_grad(const KernelCall& call, int threads) {
  parallel_for(threads, Parts(call, 1).heads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) attend_grad(call, i);
  });
}

}  // namespace

KernelOrReason attention_rows(const NodeSpec& node) {
  const bool is_forward = node.op == OpKind::ScaledDotProductAttention;
  const DType dtype = node.inputs[0].dtype;
  if (dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16)
    return declined("attention by rows: only f32, f16 and bf16");
  if (has_empty_operand(node)) return declined("attention by rows: an operand is empty");
  return plain_kernel("cpu:rows", is_forward ? &attention : &attention_grad, node.threads);
}

}  // namespace mpc::cpu
