// Softmax and LogSoftmax, their gradients, and the cross-entropy loss over (N, C), in f32. Sums are
// those of row_math.h; exponentials are those of vector_math.h.

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <string>

#include "compiler/base/error.h"
#include "executor/cpu/factories.h"
#include "executor/cpu/row_math.h"
#include "executor/cpu/support.h"
#include "executor/cpu/vector_math.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements below which a second thread costs more than it saves

/// One row of a softmax: `a` and `b` are the inputs (`b` is null where there is one), all of `length` elements.
using Row = void (*)(const float* a, const float* b, float* out, int64_t length);

/// Rows along the last axis, where they are.
template <Row row>
void along_last_axis(const KernelCall& call, int64_t length, int threads) {
  const float* a = call.inputs[0].as<float>();
  const float* b = call.inputs.size() > 1 ? call.inputs[1].as<float>() : nullptr;
  float* out = call.outputs[0].as<float>();
  const int64_t rows = call.outputs[0].shape.elements() / length;
  parallel_for(threads, rows, 1 + kGrain / length, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * length; at < end * length; at += length)
      row(a + at, b == nullptr ? nullptr : b + at, out + at, length);
  });
}

/// Rows along another axis: as many side by side as a cache line holds are brought into rows, and taken back.
template <Row row>
void along_inner_axis(const KernelCall& call, int64_t length, int64_t inner, int threads) {
  constexpr int64_t kColumns = 16;
  const int64_t blocks = (inner + kColumns - 1) / kColumns;
  const int64_t block_elements = length * kColumns;
  parallel_for(
      threads, call.outputs[0].shape.elements() / (length * inner) * blocks, 1 + kGrain / block_elements,
      [&](int64_t begin, int64_t end) {
        const auto rows = std::span(
            reinterpret_cast<float*>(thread_scratch(static_cast<int64_t>(sizeof(float)) * 3 * block_elements).data()),
            static_cast<size_t>(3 * block_elements));
        for (int64_t block = begin; block < end; ++block) {
          const int64_t first = block / blocks * length * inner + block % blocks * kColumns;
          const int64_t columns = std::min(kColumns, inner - block % blocks * kColumns);
          float* out = rows.data() + 2 * block_elements;
          for (size_t i = 0; i < call.inputs.size(); ++i) {
            const float* from = call.inputs[i].as<float>() + first;
            float* to = rows.data() + static_cast<int64_t>(i) * block_elements;
            for (int64_t k = 0; k < length; ++k)
              for (int64_t c = 0; c < columns; ++c) to[c * length + k] = from[k * inner + c];
          }
          const float* b = call.inputs.size() > 1 ? rows.data() + block_elements : nullptr;
          for (int64_t at = 0; at < columns * length; at += length)
            row(rows.data() + at, b == nullptr ? nullptr : b + at, out + at, length);
          float* to = call.outputs[0].as<float>() + first;
          for (int64_t k = 0; k < length; ++k)
            for (int64_t c = 0; c < columns; ++c) to[k * inner + c] = out[c * length + k];
        }
      });
}

template <Row row>
void by_rows(const KernelCall& call, int threads) {
  const Shape& shape = call.outputs[0].shape;
  const int axis = static_cast<int>(call.attributes.integer("axis"));
  const int64_t inner = shape.elements(axis + 1, shape.rank());
  if (inner == 1)
    along_last_axis<row>(call, shape[axis], threads);
  else
    along_inner_axis<row>(call, shape[axis], inner, threads);
}

void softmax_row(const float* x, const float*, float* y, int64_t length) {
  const double sum = row_exp(x, row_max(x, length), y, length);
  row_affine(y, static_cast<float>(1.0 / sum), 0.0f, y, length);
}

/// log(sum of e^x) beside the largest x, which is subtracted first so that nothing overflows.
struct LogSum {
  LogSum(const float* x, int64_t length)
      : largest(row_max(x, length)), log(std::log(row_exp_sum(x, largest, length))) {}
  double total() const { return static_cast<double>(largest) + log; }
  float largest;
  double log;
};

MPC_CLONES void subtract_log_sum(const float* x, float largest, float log_sum, float* y, int64_t length) {
#pragma GCC ivdep
  for (int64_t i = 0; i < length; ++i) y[i] = (x[i] - largest) - log_sum;
}

void log_softmax_row(const float* x, const float*, float* y, int64_t length) {
  const LogSum sum(x, length);
  subtract_log_sum(x, sum.largest, static_cast<float>(sum.log), y, length);
}

MPC_CLONES void scale_by_distance(const float* dy, const float* y, float sum, float* dx, int64_t length) {
#pragma GCC ivdep
  for (int64_t i = 0; i < length; ++i) dx[i] = y[i] * (dy[i] - sum);
}

void softmax_grad_row(const float* dy, const float* y, float* dx, int64_t length) {
  scale_by_distance(dy, y, static_cast<float>(row_dot(dy, y, length)), dx, length);
}

MPC_CLONES void subtract_share(const float* dy, const float* y, float sum, float* dx, int64_t length) {
#pragma GCC ivdep
  for (int64_t i = 0; i < length; ++i) dx[i] = dy[i] - fast_exp(y[i]) * sum;
}

void log_softmax_grad_row(const float* dy, const float* y, float* dx, int64_t length) {
  subtract_share(dy, y, static_cast<float>(row_sum(dy, length)), dx, length);
}

/// The labels of a loss over scores (N, C), and what each item counts.
class Items {
 public:
  Items(OpKind op, const KernelCall& call, size_t scores, size_t labels, size_t weights)
      : count(call.inputs[scores].shape[0]),
        classes(call.inputs[scores].shape[1]),
        labels_(call.inputs[labels]),
        weights_(call.has_input(weights) ? call.inputs[weights].as<float>() : nullptr) {
    if (call.attributes.has("ignore_index")) ignored_ = call.attributes.integer("ignore_index");
    const std::string& reduction = call.attributes.text("reduction");
    is_reduced = reduction != "none";
    scale_ = call.attributes.number("scale");
    double total = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (is_ignored(i)) continue;
      if (label(i) < 0 || label(i) >= classes) {
        throw Error(ErrorId::M033, std::string(op_name(op)),
                    "label " + std::to_string(label(i)) + " of item " + std::to_string(i) + " is outside 0.." +
                        std::to_string(classes - 1),
                    "--ignore-label names labels that count nothing");
      }
      total += weight(i);
    }
    if (reduction == "mean") scale_ = total == 0 ? 0.0 : scale_ / total;
  }
  int64_t label(int64_t i) const {
    return labels_.dtype == DType::i64 ? labels_.as<int64_t>()[i] : labels_.as<int32_t>()[i];
  }
  bool is_ignored(int64_t i) const { return ignored_ && label(i) == *ignored_; }
  /// What -log(probability) of the item is multiplied by.
  double factor(int64_t i) const { return is_ignored(i) ? 0.0 : weight(i) * scale_; }

  int64_t count;
  int64_t classes;
  bool is_reduced = false;

 private:
  double weight(int64_t i) const { return weights_ == nullptr ? 1.0 : static_cast<double>(weights_[label(i)]); }

  TensorView labels_;
  const float* weights_;
  std::optional<int64_t> ignored_;
  double scale_ = 1;
};

void cross_entropy(const KernelCall& call, int) {
  const Items items(OpKind::SoftmaxCrossEntropyLoss, call, 0, 1, 2);
  const float* scores = call.inputs[0].as<float>();
  double total = 0;
  for (int64_t i = 0; i < items.count; ++i) {
    const float* row = scores + i * items.classes;
    const LogSum sum(row, items.classes);
    if (call.has_output(1)) {
      subtract_log_sum(row, sum.largest, static_cast<float>(sum.log), call.outputs[1].as<float>() + i * items.classes,
                       items.classes);
    }
    const double loss =
        items.is_ignored(i) ? 0.0 : items.factor(i) * (sum.total() - static_cast<double>(row[items.label(i)]));
    total += loss;
    if (!items.is_reduced && call.has_output(0)) call.outputs[0].as<float>()[i] = static_cast<float>(loss);
  }
  if (items.is_reduced && call.has_output(0)) *call.outputs[0].as<float>() = static_cast<float>(total);
}

void cross_entropy_grad(const KernelCall& call, int) {
  const Items items(OpKind::SoftmaxCrossEntropyLossGrad, call, 1, 2, 3);
  const float* dloss = call.inputs[0].as<float>();
  for (int64_t i = 0; i < items.count; ++i) {
    const float* row = call.inputs[1].as<float>() + i * items.classes;
    float* out = call.outputs[0].as<float>() + i * items.classes;
    if (items.is_ignored(i)) {  // exactly 0, also where the softmax is NaN
      std::fill_n(out, items.classes, 0.0f);
      continue;
    }
    const double factor = items.factor(i) * static_cast<double>(dloss[items.is_reduced ? 0 : i]);
    const double sum = row_exp(row, row_max(row, items.classes), out, items.classes);
    const double probability = static_cast<double>(out[items.label(i)]) / sum;
    row_affine(out, static_cast<float>(factor / sum), 0.0f, out, items.classes);
    out[items.label(i)] = static_cast<float>(factor * (probability - 1.0));
  }
}

}  // namespace

KernelOrReason softmax_rows(const NodeSpec& node) {
  if (!all_of_type(node, DType::f32)) return declined("softmax by rows: only f32");
  if (has_empty_operand(node)) return declined("softmax by rows: an operand is empty");
  switch (node.op) {
    case OpKind::Softmax:
      return plain_kernel("cpu:rows", &by_rows<softmax_row>, node.threads);
    case OpKind::LogSoftmax:
      return plain_kernel("cpu:rows", &by_rows<log_softmax_row>, node.threads);
    case OpKind::SoftmaxGrad:
      return plain_kernel("cpu:rows", &by_rows<softmax_grad_row>, node.threads);
    case OpKind::LogSoftmaxGrad:
      return plain_kernel("cpu:rows", &by_rows<log_softmax_grad_row>, node.threads);
    default:
      return declined("softmax by rows: not a softmax");
  }
}

KernelOrReason cross_entropy_rows(const NodeSpec& node) {
  const bool is_forward = node.op == OpKind::SoftmaxCrossEntropyLoss;
  const size_t labels = is_forward ? 1 : 2;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const DType dtype = node.inputs[i].dtype;
    if (!node.inputs[i].is_present) continue;
    const bool fits = i == labels ? dtype == DType::i64 || dtype == DType::i32 : dtype == DType::f32;
    if (!fits) return declined("cross-entropy by rows: only f32 scores with i64 or i32 labels");
  }
  if (has_empty_operand(node)) return declined("cross-entropy by rows: an operand is empty");
  if (node.inputs[is_forward ? 0 : 1].shape.rank() != 2) return declined("cross-entropy by rows: only scores (N, C)");
  return plain_kernel("cpu:rows", is_forward ? &cross_entropy : &cross_entropy_grad, node.threads);
}

}  // namespace mpc::cpu
