// Attention and its gradient without a library: a team of threads per query (and, for dk and dv, per key), which keeps
// the numbers of one row of scores in the workspace. Scores are computed again where they are needed. For what cuDNN
// does not take; far slower.

#include <cmath>

#include "compiler/base/attention_parts.h"
#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"

namespace mpc::cuda {
namespace {

/// Teams that run at a time; each has two rows of the workspace.
constexpr int64_t kTeams = 132 * 8;

/// Where one of q, k, v and y lies in its operand: (batch, sequence, heads, width).
struct Rows {
  explicit Rows(const AttentionPart& part)
      : begin(part.begin), batch_step(part.batch_step()), step(part.step), width(part.shape[3]), heads(part.shape[2]) {}

  /// The row of a position, of a head that is counted through all batches: its first element.
  MPC_DEVICE int64_t row(int64_t head, int64_t position) const {
    return begin + head / heads * batch_step + position * step + head % heads * width;
  }

  int64_t begin, batch_step, step, width, heads;
};

/// q (batch, queries, heads, width), k (batch, keys, heads, width), v (batch, keys, heads, value_width) at `first` of
/// the node's operands.
struct AttentionShape {
  AttentionShape(const executor::NodeSpec& node, size_t first)
      : AttentionShape(node, first,
                       attention_parts([&](size_t i) -> const Shape& { return node.inputs[first + i].shape; })) {}
  AttentionShape(const executor::NodeSpec& node, size_t first, const std::array<AttentionPart, kAttentionParts>& parts)
      : q(parts[0]),
        k(parts[1]),
        v(parts[2]),
        y(whole_attention_part(Shape{parts[0].shape[0], parts[0].shape[1], parts[0].shape[2], parts[2].shape[3]})),
        heads(parts[0].shape[0] * parts[0].shape[2]),
        queries(parts[0].shape[1]),
        keys(parts[1].shape[1]),
        scale(node.attributes->number("scale")),
        is_causal(node.attributes->flag("is_causal")),
        operands(attention_operands(node.inputs[first].shape)) {}

  /// Keys that a query looks at: [0, keys_of(query)). Queries that look at a key: [queries_from(key), queries).
  MPC_DEVICE int64_t keys_of(int64_t query) const { return is_causal ? query + 1 : keys; }
  MPC_DEVICE int64_t queries_from(int64_t key) const { return is_causal ? key : 0; }
  /// The operand, counted from the first, and the gradient that holds part i.
  size_t operand(size_t i) const { return operands == 1 ? 0 : i; }

  Rows q, k, v, y;
  int64_t heads;  // of all batches
  int64_t queries, keys;
  double scale;
  bool is_causal;
  size_t operands;
};

/// What is added to the scores; may have no data.
template <class T>
struct Mask {
  Mask(const executor::NodeSpec& node, size_t at) : operand(at) {
    if (!has_input(node, at)) return;
    const AttentionMask steps(node.inputs[at].shape);
    query_step = steps.query_step;
    head_step = steps.head_step;
    batch_step = steps.batch_step;
  }
  /// With its memory in `launch`; `heads` of one batch.
  Mask bound(const Launch& launch, int64_t heads_of_batch) const {
    Mask result = *this;
    result.data = launch.in<T>(operand);
    result.heads = heads_of_batch;
    return result;
  }
  /// `head` is counted through all batches.
  MPC_DEVICE T at(int64_t head, int64_t query, int64_t key) const {
    if (data == nullptr) return 0;
    return data[head / heads * batch_step + head % heads * head_step + query * query_step + key];
  }

  size_t operand;
  const T* data = nullptr;
  int64_t heads = 1;
  int64_t query_step = 0, head_step = 0, batch_step = 0;
};

template <class T>
MPC_DEVICE inline T dot(const In<T>& a, int64_t a_begin, const In<T>& b, int64_t b_begin, int64_t count) {
  T sum = 0;
  for (int64_t d = 0; d < count; ++d) sum += a[a_begin + d] * b[b_begin + d];
  return sum;
}

template <class T>
struct AttendQuery {
  In<T> q, k, v;
  Out<T> y;
  Out<T> log_sum;  // may have no data
  T* scratch;      // (kTeams, keys)
  AttentionShape s;
  Mask<T> mask;

  MPC_DEVICE void operator()(Block& block, int64_t team) const {
    T* const p = scratch + team * s.keys;
    for (int64_t r = team; r < s.heads * s.queries; r += kTeams) {
      const int64_t head = r / s.queries;
      const int64_t query = r % s.queries;
      const int64_t keys = s.keys_of(query);
      const int64_t q_begin = s.q.row(head, query);
      const T scale = static_cast<T>(s.scale);
      block.for_each(keys, [&](int64_t j) {
        p[j] = scale * dot<T>(q, q_begin, k, s.k.row(head, j), s.q.width) + mask.at(head, query, j);
      });
      const T largest = block.reduce(
          keys, p[0], [&](int64_t j) { return p[j]; }, [](T a, T b) { return a > b ? a : b; });
      block.for_each(keys, [&](int64_t j) { p[j] = std::exp(p[j] - largest); });
      const double sum = block.sum(keys, [&](int64_t j) { return static_cast<double>(p[j]); });
      const T factor = static_cast<T>(1.0 / sum);
      const int64_t y_begin = s.y.row(head, query);
      block.for_each(s.v.width, [&](int64_t d) {
        T total = 0;
        for (int64_t j = 0; j < keys; ++j) total += p[j] * v[s.v.row(head, j) + d];
        y.set(y_begin + d, total * factor);
      });
      block.for_each(log_sum.data == nullptr ? 0 : 1,
                     [&](int64_t) { log_sum.set(r, largest + static_cast<T>(std::log(sum))); });
    }
  }
};

/// What both gradients read.
template <class T>
struct AttentionOperands {
  In<T> dy, q, k, v, y, log_sum;
  AttentionShape s;
  Mask<T> mask;

  /// p and ds of a query and a key; `shared` is sum(dy y) of the query.
  MPC_DEVICE T probability(int64_t head, int64_t query, int64_t key) const {
    const T score = dot<T>(q, s.q.row(head, query), k, s.k.row(head, key), s.q.width);
    const T masked = static_cast<T>(s.scale) * score + mask.at(head, query, key);
    return std::exp(masked - log_sum[head * s.queries + query]);
  }
  MPC_DEVICE T shared(int64_t head, int64_t query) const {
    const int64_t begin = s.y.row(head, query);
    return dot<T>(dy, begin, y, begin, s.v.width);
  }
  MPC_DEVICE T score_grad(int64_t head, int64_t query, int64_t key, T p, T shared) const {
    const T dp = dot<T>(dy, s.y.row(head, query), v, s.v.row(head, key), s.v.width);
    return static_cast<T>(s.scale) * p * (dp - shared);
  }
};

template <class T>
struct AttendQueryGrad {
  AttentionOperands<T> in;
  Out<T> dq;
  T* scratch;  // (kTeams, keys)

  MPC_DEVICE void operator()(Block& block, int64_t team) const {
    const AttentionShape& s = in.s;
    T* const ds = scratch + team * s.keys;
    for (int64_t r = team; r < s.heads * s.queries; r += kTeams) {
      const int64_t head = r / s.queries;
      const int64_t query = r % s.queries;
      const int64_t keys = s.keys_of(query);
      const T shared = in.shared(head, query);
      block.for_each(keys,
                     [&](int64_t j) { ds[j] = in.score_grad(head, query, j, in.probability(head, query, j), shared); });
      const int64_t begin = s.q.row(head, query);
      block.for_each(s.q.width, [&](int64_t d) {
        T total = 0;
        for (int64_t j = 0; j < keys; ++j) total += ds[j] * in.k[s.k.row(head, j) + d];
        dq.set(begin + d, total);
      });
    }
  }
};

template <class T>
struct AttendKeyGrad {
  AttentionOperands<T> in;
  Out<T> dk;  // these two may have no data
  Out<T> dv;
  T* scratch;  // (kTeams, 2, queries)

  MPC_DEVICE void operator()(Block& block, int64_t team) const {
    const AttentionShape& s = in.s;
    T* const p = scratch + team * 2 * s.queries;
    T* const ds = p + s.queries;
    for (int64_t r = team; r < s.heads * s.keys; r += kTeams) {
      const int64_t head = r / s.keys;
      const int64_t key = r % s.keys;
      const int64_t first = s.queries_from(key);
      block.for_each(s.queries - first, [&](int64_t i) {
        p[i] = in.probability(head, first + i, key);
        ds[i] = in.score_grad(head, first + i, key, p[i], in.shared(head, first + i));
      });
      block.for_each(dk.data == nullptr ? 0 : s.q.width, [&](int64_t d) {
        T total = 0;
        for (int64_t i = first; i < s.queries; ++i) total += ds[i - first] * in.q[s.q.row(head, i) + d];
        dk.set(s.k.row(head, key) + d, total);
      });
      block.for_each(dv.data == nullptr ? 0 : s.v.width, [&](int64_t d) {
        T total = 0;
        for (int64_t i = first; i < s.queries; ++i) total += p[i - first] * in.dy[s.y.row(head, i) + d];
        dv.set(s.v.row(head, key) + d, total);
      });
    }
  }
};

template <class T>
class AttentionKernel final : public Kernel {
 public:
  explicit AttentionKernel(const executor::NodeSpec& node)
      : shape_(node, 0), dtype_(input_dtype(node, 0)), log_sum_(output_dtype(node, 1)), mask_(node, shape_.operands) {}

  void run(const Launch& launch) override {
    const auto in = [&](size_t i) { return In<T>{launch.inputs[shape_.operand(i)], dtype_}; };
    const AttendQuery<T> body{in(0),
                              in(1),
                              in(2),
                              {launch.outputs[0], dtype_},
                              {launch.out<void>(1), log_sum_},
                              static_cast<T*>(launch.workspace),
                              shape_,
                              mask_.bound(launch, shape_.q.heads)};
    for_each_block(launch.stream, teams(shape_.heads * shape_.queries), body, "attention");
  }
  int64_t workspace_bytes() const override { return kTeams * shape_.keys * static_cast<int64_t>(sizeof(T)); }
  std::string_view name() const override { return "cuda:attention rows"; }

  static int64_t teams(int64_t rows) { return rows < kTeams ? rows : kTeams; }

 private:
  AttentionShape shape_;
  DType dtype_, log_sum_;
  Mask<T> mask_;
};

template <class T>
class AttentionGradKernel final : public Kernel {
 public:
  explicit AttentionGradKernel(const executor::NodeSpec& node)
      : shape_(node, 1),
        dtype_(input_dtype(node, 0)),
        log_sum_(input_dtype(node, 2 + shape_.operands)),
        mask_(node, 3 + shape_.operands) {}

  void run(const Launch& launch) override {
    // dy stands before q, k and v, and y and log_sum after them.
    constexpr size_t kFirst = 1;
    const size_t end = kFirst + shape_.operands;
    const auto in = [&](size_t i) { return In<T>{launch.inputs[i], dtype_}; };
    const auto part = [&](size_t i) { return in(kFirst + shape_.operand(i)); };
    const auto grad = [&](size_t i) { return Out<T>{launch.out<void>(shape_.operand(i)), dtype_}; };
    const In<T> log_sum{launch.inputs[end + 1], log_sum_};
    const AttentionOperands<T> operands{in(0),   part(0), part(1), part(2),
                                        in(end), log_sum, shape_,  mask_.bound(launch, shape_.q.heads)};
    T* const scratch = static_cast<T*>(launch.workspace);
    if (grad(0).data != nullptr) {
      for_each_block(launch.stream, AttentionKernel<T>::teams(shape_.heads * shape_.queries),
                     AttendQueryGrad<T>{operands, grad(0), scratch}, "attention gradient");
    }
    if (grad(1).data == nullptr && grad(2).data == nullptr) return;
    for_each_block(launch.stream, AttentionKernel<T>::teams(shape_.heads * shape_.keys),
                   AttendKeyGrad<T>{operands, grad(1), grad(2), scratch}, "attention gradient");
  }
  int64_t workspace_bytes() const override {
    const int64_t row = 2 * shape_.queries > shape_.keys ? 2 * shape_.queries : shape_.keys;
    return kTeams * row * static_cast<int64_t>(sizeof(T));
  }
  std::string_view name() const override { return "cuda:attention rows"; }

 private:
  AttentionShape shape_;
  DType dtype_, log_sum_;
  Mask<T> mask_;
};

}  // namespace

KernelOrReason attention(const executor::NodeSpec& node, const MakeOptions&) {
  return with_float_type(node, [&](auto tag) {
    return KernelOrReason{std::make_unique<AttentionKernel<decltype(tag)>>(node), {}};
  });
}

KernelOrReason attention_grad(const executor::NodeSpec& node, const MakeOptions&) {
  return with_float_type(node, [&](auto tag) {
    return KernelOrReason{std::make_unique<AttentionGradKernel<decltype(tag)>>(node), {}};
  });
}

}  // namespace mpc::cuda
