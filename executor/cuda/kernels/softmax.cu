// Softmax and LogSoftmax along any axis, their gradients, and the cross-entropy and NLL losses with their gradients.
// One block per row (or line). Sums are f64, exponentials f32 (f64 for f64).

#include <cmath>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/functors/binary.h"

namespace mpc::cuda {
namespace {

/// The elements of line `line`: begin(line) + i * inner.
struct Lines {
  int64_t length;
  int64_t inner;
  MPC_DEVICE int64_t begin(int64_t line) const { return line / inner * length * inner + line % inner; }
};

template <class T>
struct Greatest {
  MPC_DEVICE T operator()(T a, T b) const { return functors::Max::value(a, b); }
};

/// The largest element of a line, and log or plain sum of e^(x - largest).
template <class T>
struct Exponentials {
  T largest;
  double sum;
};

template <class T>
MPC_DEVICE inline Exponentials<T> exponentials(Block& block, const In<T>& x, const Lines& lines, int64_t begin) {
  Exponentials<T> result;
  result.largest = block.reduce(
      lines.length, -T{INFINITY}, [&](int64_t i) { return x[begin + i * lines.inner]; }, Greatest<T>());
  const T largest = result.largest;
  result.sum = block.sum(
      lines.length, [&](int64_t i) { return static_cast<double>(std::exp(x[begin + i * lines.inner] - largest)); });
  return result;
}

template <class T>
struct SoftmaxLine {
  In<T> x;
  Out<T> y;
  Lines lines;
  bool is_log;
  MPC_DEVICE void operator()(Block& block, int64_t line) const {
    const int64_t begin = lines.begin(line);
    const Exponentials<T> e = exponentials<T>(block, x, lines, begin);
    const T log_sum = static_cast<T>(std::log(e.sum));
    const T inverse = static_cast<T>(1.0 / e.sum);
    block.for_each(lines.length, [&](int64_t i) {
      const int64_t at = begin + i * lines.inner;
      const T shifted = x[at] - e.largest;
      y.set(at, is_log ? shifted - log_sum : std::exp(shifted) * inverse);
    });
  }
};

template <class T>
struct SoftmaxGradLine {
  In<T> dy;
  In<T> y;
  Out<T> dx;
  Lines lines;
  bool is_log;
  MPC_DEVICE void operator()(Block& block, int64_t line) const {
    const int64_t begin = lines.begin(line);
    const double total = block.sum(lines.length, [&](int64_t i) {
      const int64_t at = begin + i * lines.inner;
      const double d = static_cast<double>(dy[at]);
      return is_log ? d : d * static_cast<double>(y[at]);
    });
    const T sum = static_cast<T>(total);
    block.for_each(lines.length, [&](int64_t i) {
      const int64_t at = begin + i * lines.inner;
      dx.set(at, is_log ? dy[at] - std::exp(y[at]) * sum : y[at] * (dy[at] - sum));
    });
  }
};

Lines lines_of(const executor::NodeSpec& node) {
  const Shape& shape = node.outputs[0].shape;
  const int axis = static_cast<int>(node.attributes->integer("axis"));
  return {shape[axis], shape.elements(axis + 1, shape.rank())};
}

/// The items of a loss over scores (N, C, positions): item i has class c at ((i / positions) * C + c) * positions + i %
/// positions.
template <class T>
struct Items {
  IntegerIn labels;
  In<T> weights;  // may have no data
  int64_t count;
  int64_t classes;
  int64_t positions;
  bool has_ignored;
  int64_t ignored;
  Faults faults;

  MPC_DEVICE bool is_ignored(int64_t i) const { return has_ignored && labels[i] == ignored; }
  /// A label outside of the classes is reported and taken as class 0.
  MPC_DEVICE int64_t label(int64_t i) const {
    const int64_t label = labels[i];
    if (label >= 0 && label < classes) return label;
    faults.report(label, classes);
    return 0;
  }
  MPC_DEVICE double weight(int64_t i) const {
    return weights.data == nullptr ? 1.0 : static_cast<double>(weights[label(i)]);
  }
  MPC_DEVICE int64_t begin(int64_t i) const { return i / positions * classes * positions + i % positions; }
};

/// factor[0] = what -log(probability) of every item is multiplied by, beside its class's weight.
template <class T>
struct LossFactor {
  Items<T> items;
  double* factor;
  double scale;
  bool is_mean;
  MPC_DEVICE void operator()(Block& block, int64_t) const {
    const double total =
        block.sum(is_mean ? items.count : 0, [&](int64_t i) { return items.is_ignored(i) ? 0.0 : items.weight(i); });
    block.for_each(1, [&](int64_t) { *factor = !is_mean ? scale : total == 0 ? 0.0 : scale / total; });
  }
};

/// losses[i] and, where asked for, the log-probabilities of item i.
template <class T>
struct CrossEntropyItem {
  Items<T> items;
  In<T> scores;
  Out<T> log_prob;  // may have no data
  const double* factor;
  double* losses;
  bool has_log_prob_scores;  // NLL: scores are log-probabilities already
  MPC_DEVICE void operator()(Block& block, int64_t i) const {
    const int64_t begin = items.begin(i);
    const Lines lines{items.classes, items.positions};
    Exponentials<T> e{0, 1};
    if (!has_log_prob_scores) e = exponentials<T>(block, scores, lines, begin);
    const double log_sum = has_log_prob_scores ? 0.0 : std::log(e.sum);
    if (log_prob.data != nullptr) {
      const T rounded = static_cast<T>(log_sum);
      block.for_each(items.classes, [&](int64_t c) {
        const int64_t at = begin + c * items.positions;
        log_prob.set(at, (scores[at] - e.largest) - rounded);
      });
    }
    block.for_each(1, [&](int64_t) {
      if (items.is_ignored(i)) {
        losses[i] = 0;
        return;
      }
      const double score = static_cast<double>(scores[begin + items.label(i) * items.positions]);
      losses[i] = items.weight(i) * *factor * (static_cast<double>(e.largest) + log_sum - score);
    });
  }
};

template <class T>
struct LossSum {
  const double* losses;
  Out<T> loss;
  int64_t count;
  bool is_reduced;
  MPC_DEVICE void operator()(Block& block, int64_t) const {
    if (is_reduced) {
      const double total = block.sum(count, [&](int64_t i) { return losses[i]; });
      block.for_each(1, [&](int64_t) { loss.set(0, static_cast<T>(total)); });
    } else {
      block.for_each(count, [&](int64_t i) { loss.set(i, static_cast<T>(losses[i])); });
    }
  }
};

template <class T>
struct CrossEntropyGradItem {
  Items<T> items;
  In<T> dloss;
  In<T> scores;
  Out<T> dscores;
  const double* factor;
  bool is_reduced;
  bool has_log_prob_scores;
  MPC_DEVICE void operator()(Block& block, int64_t i) const {
    const int64_t begin = items.begin(i);
    if (items.is_ignored(i)) {  // exactly 0, also where the softmax is NaN
      block.for_each(items.classes, [&](int64_t c) { dscores.set(begin + c * items.positions, T{0}); });
      return;
    }
    const int64_t label = items.label(i);
    const double upstream = items.weight(i) * *factor * static_cast<double>(dloss[is_reduced ? 0 : i]);
    if (has_log_prob_scores) {
      block.for_each(items.classes, [&](int64_t c) {
        dscores.set(begin + c * items.positions, c == label ? static_cast<T>(-upstream) : T{0});
      });
      return;
    }
    const Exponentials<T> e = exponentials<T>(block, scores, {items.classes, items.positions}, begin);
    block.for_each(items.classes, [&](int64_t c) {
      const int64_t at = begin + c * items.positions;
      const double probability = static_cast<double>(std::exp(scores[at] - e.largest)) / e.sum;
      dscores.set(at, static_cast<T>(upstream * (probability - (c == label ? 1.0 : 0.0))));
    });
  }
};

/// The loss kernels: factor, then items, then their sum. The workspace holds the factor (256 bytes) and the losses.
template <class T>
class LossKernel final : public Kernel {
 public:
  LossKernel(const executor::NodeSpec& node, bool is_gradient)
      : is_gradient_(is_gradient),
        is_nll_(node.op == OpKind::NegativeLogLikelihoodLoss || node.op == OpKind::NegativeLogLikelihoodLossGrad),
        scores_at_(is_gradient ? 1 : 0),
        has_weights_(has_input(node, scores_at_ + 2)),
        has_loss_(has_output(node, 0)),
        has_log_prob_(!is_gradient && has_output(node, 1)) {
    const Shape& scores = node.inputs[scores_at_].shape;
    const Attributes& attributes = *node.attributes;
    items_.count = node.inputs[scores_at_ + 1].shape.elements();
    items_.classes = scores[1];
    items_.positions = scores.elements(2, scores.rank());
    items_.has_ignored = attributes.has("ignore_index");
    items_.ignored = items_.has_ignored ? attributes.integer("ignore_index") : 0;
    items_.labels.dtype = input_dtype(node, scores_at_ + 1);
    items_.weights.dtype = input_dtype(node, scores_at_ + 2);
    scores_type_ = input_dtype(node, scores_at_);
    first_type_ = input_dtype(node, 0);
    result_type_ = output_dtype(node, 0);
    log_prob_type_ = output_dtype(node, 1);
    scale_ = attributes.number("scale");
    is_mean_ = attributes.text("reduction") == "mean";
    is_reduced_ = attributes.text("reduction") != "none";
  }

  void run(const Launch& launch) override {
    Items<T> items = items_;
    items.labels.data = launch.inputs[scores_at_ + 1];
    items.weights.data = has_weights_ ? launch.inputs[scores_at_ + 2] : nullptr;
    items.faults = faults_of(launch);
    double* factor = static_cast<double*>(launch.workspace);
    double* losses = factor + kFactorBytes / sizeof(double);
    const In<T> scores{launch.inputs[scores_at_], scores_type_};
    for_each_block(launch.stream, 1, LossFactor<T>{items, factor, scale_, is_mean_}, "loss factor");
    if (is_gradient_) {
      for_each_block(launch.stream, items.count,
                     CrossEntropyGradItem<T>{items,
                                             {launch.inputs[0], first_type_},
                                             scores,
                                             {launch.outputs[0], result_type_},
                                             factor,
                                             is_reduced_,
                                             is_nll_},
                     "loss gradient");
      return;
    }
    for_each_block(
        launch.stream, items.count,
        CrossEntropyItem<T>{
            items, scores, {has_log_prob_ ? launch.outputs[1] : nullptr, log_prob_type_}, factor, losses, is_nll_},
        "loss items");
    if (!has_loss_) return;
    for_each_block(launch.stream, 1, LossSum<T>{losses, {launch.outputs[0], result_type_}, items.count, is_reduced_},
                   "loss");
  }
  int64_t workspace_bytes() const override {
    return kFactorBytes + (is_gradient_ ? 0 : items_.count * static_cast<int64_t>(sizeof(double)));
  }
  std::string_view name() const override { return "cuda:rows"; }

 private:
  static constexpr int64_t kFactorBytes = 256;
  bool is_gradient_;
  bool is_nll_;
  size_t scores_at_;
  bool has_weights_;
  bool has_loss_;
  bool has_log_prob_;
  Items<T> items_{};
  DType scores_type_, first_type_, result_type_, log_prob_type_;
  double scale_ = 1;
  bool is_mean_ = false;
  bool is_reduced_ = false;
};

std::string loss_refusal(const executor::NodeSpec& node, size_t labels) {
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (has_input(node, i) && i != labels && !is_float(node.inputs[i].dtype)) return "loss: scores are no floats";
  }
  return is_integer(input_dtype(node, labels)) ? "" : "loss: labels are no integers";
}

KernelOrReason loss(const executor::NodeSpec& node, bool is_gradient) {
  if (std::string reason = loss_refusal(node, is_gradient ? 2 : 1); !reason.empty()) return declined(reason);
  return with_float_type(node, [&](auto tag) {
    return KernelOrReason{std::make_unique<LossKernel<decltype(tag)>>(node, is_gradient), {}};
  });
}

}  // namespace

KernelOrReason softmax(const executor::NodeSpec& node, const MakeOptions&) {
  if (first_not_float(node)) return declined("softmax: only floats");
  const Lines lines = lines_of(node);
  const int64_t count = lines.length == 0 ? 0 : node.outputs[0].shape.elements() / lines.length;
  const DType in = input_dtype(node, 0);
  const DType out = output_dtype(node, 0);
  const bool is_log = node.op == OpKind::LogSoftmax;
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    return function_kernel("cuda:rows", [=](const Launch& launch) {
      for_each_block(launch.stream, count,
                     SoftmaxLine<T>{{launch.inputs[0], in}, {launch.outputs[0], out}, lines, is_log}, "softmax");
    });
  });
}

KernelOrReason softmax_grad(const executor::NodeSpec& node, const MakeOptions&) {
  if (first_not_float(node)) return declined("softmax gradient: only floats");
  const Lines lines = lines_of(node);
  const int64_t count = lines.length == 0 ? 0 : node.outputs[0].shape.elements() / lines.length;
  const DType dy = input_dtype(node, 0);
  const DType y = input_dtype(node, 1);
  const DType dx = output_dtype(node, 0);
  const bool is_log = node.op == OpKind::LogSoftmaxGrad;
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    return function_kernel("cuda:rows", [=](const Launch& launch) {
      for_each_block(
          launch.stream, count,
          SoftmaxGradLine<T>{{launch.inputs[0], dy}, {launch.inputs[1], y}, {launch.outputs[0], dx}, lines, is_log},
          "softmax gradient");
    });
  });
}

KernelOrReason cross_entropy(const executor::NodeSpec& node, const MakeOptions&) {
  return loss(node, false);
}

KernelOrReason cross_entropy_grad(const executor::NodeSpec& node, const MakeOptions&) {
  return loss(node, true);
}

}  // namespace mpc::cuda
