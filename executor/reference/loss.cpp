#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "compiler/base/error.h"
#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

/// The items of a loss: item i (n, position p) has class c at ((n * classes) + c) * positions + p of the scores.
class Items {
 public:
  /// Reads labels and weights. @throws Error(M033) on a label that is neither a class nor ignore_index.
  Items(OpKind op, const KernelCall& call, size_t scores, size_t labels, size_t weights)
      : classes_(call.inputs[scores].shape[1]),
        positions_(call.inputs[scores].shape.elements(2, call.inputs[scores].shape.rank())),
        labels_(load_integers(call.inputs[labels])) {
    if (call.has_input(weights)) class_weights_ = load_numbers(call.inputs[weights]);
    if (call.attributes.has("ignore_index")) ignored_ = call.attributes.integer("ignore_index");
    const std::string& reduction = call.attributes.text("reduction");
    is_reduced_ = reduction != "none";
    scale_ = call.attributes.number("scale");
    double total = 0;
    for (int64_t i = 0; i < count(); ++i) {
      if (is_ignored(i)) continue;
      const int64_t label = labels_[static_cast<size_t>(i)];
      if (label < 0 || label >= classes_) {
        throw Error(ErrorId::M033, std::string(op_name(op)),
                    "label " + std::to_string(label) + " of item " + std::to_string(i) + " is outside 0.." +
                        std::to_string(classes_ - 1),
                    "--ignore-label names labels that count nothing");
      }
      total += class_weight(i);
    }
    if (reduction == "mean") scale_ = total == 0 ? 0.0 : scale_ / total;
  }

  int64_t count() const { return static_cast<int64_t>(labels_.size()); }
  int64_t classes() const { return classes_; }
  bool is_ignored(int64_t i) const { return ignored_ && labels_[static_cast<size_t>(i)] == *ignored_; }
  bool is_label(int64_t i, int64_t c) const { return labels_[static_cast<size_t>(i)] == c; }
  int64_t label(int64_t i) const { return labels_[static_cast<size_t>(i)]; }
  bool is_reduced() const { return is_reduced_; }
  /// What the item's -log(probability) is multiplied by: its class's weight, the scale, and for the mean 1 / sum of
  /// weights.
  double factor(int64_t i) const { return is_ignored(i) ? 0.0 : class_weight(i) * scale_; }
  size_t score_at(int64_t i, int64_t c) const {
    return static_cast<size_t>((i / positions_ * classes_ + c) * positions_ + i % positions_);
  }

 private:
  double class_weight(int64_t i) const {
    return class_weights_.empty() ? 1.0 : class_weights_[static_cast<size_t>(labels_[static_cast<size_t>(i)])];
  }

  int64_t classes_;
  int64_t positions_;
  std::vector<int64_t> labels_;
  std::vector<double> class_weights_;
  std::optional<int64_t> ignored_;
  bool is_reduced_ = false;
  double scale_ = 1.0;
};

/// Scores replaced by their log_softmax over the classes.
void log_softmax(const Items& items, std::vector<double>& scores) {
  if (scores.empty()) return;
  for (int64_t i = 0; i < items.count(); ++i) {
    double largest = scores[items.score_at(i, 0)];
    for (int64_t c = 1; c < items.classes(); ++c) largest = std::max(largest, scores[items.score_at(i, c)]);
    double sum = 0;
    for (int64_t c = 0; c < items.classes(); ++c) sum += std::exp(scores[items.score_at(i, c)] - largest);
    const double log_sum = std::log(sum);
    for (int64_t c = 0; c < items.classes(); ++c) {
      double& score = scores[items.score_at(i, c)];
      score = score - largest - log_sum;
    }
  }
}

void write_loss(const Items& items, const std::vector<double>& log_prob, const TensorView& loss) {
  std::vector<double> losses(static_cast<size_t>(items.count()), 0.0);
  double total = 0;
  for (int64_t i = 0; i < items.count(); ++i) {
    if (items.is_ignored(i)) continue;
    const double item = -items.factor(i) * log_prob[items.score_at(i, items.label(i))];
    losses[static_cast<size_t>(i)] = item;
    total += item;
  }
  if (items.is_reduced()) losses.assign(1, total);
  store_all(loss, losses);
}

double upstream(const Items& items, const std::vector<double>& dloss, int64_t i) {
  return items.factor(i) * dloss[items.is_reduced() ? 0 : static_cast<size_t>(i)];
}

}  // namespace

void SoftmaxCrossEntropyLoss(const KernelCall& call) {
  const Items items(OpKind::SoftmaxCrossEntropyLoss, call, 0, 1, 2);
  std::vector<double> log_prob = load_numbers(call.inputs[0]);
  log_softmax(items, log_prob);
  if (call.has_output(0)) write_loss(items, log_prob, call.outputs[0]);
  if (call.has_output(1)) store_all(call.outputs[1], log_prob);
}

void SoftmaxCrossEntropyLossGrad(const KernelCall& call) {
  const Items items(OpKind::SoftmaxCrossEntropyLossGrad, call, 1, 2, 3);
  const std::vector<double> dloss = load_numbers(call.inputs[0]);
  std::vector<double> scores = load_numbers(call.inputs[1]);
  log_softmax(items, scores);
  for (int64_t i = 0; i < items.count(); ++i) {
    const double factor = upstream(items, dloss, i);
    for (int64_t c = 0; c < items.classes(); ++c) {
      double& score = scores[items.score_at(i, c)];
      // An ignored item gives exactly 0, also where its softmax is NaN.
      score = items.is_ignored(i) ? 0.0 : factor * (std::exp(score) - (items.is_label(i, c) ? 1.0 : 0.0));
    }
  }
  store_all(call.outputs[0], scores);
}

void NegativeLogLikelihoodLoss(const KernelCall& call) {
  const Items items(OpKind::NegativeLogLikelihoodLoss, call, 0, 1, 2);
  write_loss(items, load_numbers(call.inputs[0]), call.outputs[0]);
}

void NegativeLogLikelihoodLossGrad(const KernelCall& call) {
  const Items items(OpKind::NegativeLogLikelihoodLossGrad, call, 1, 2, 3);
  const std::vector<double> dloss = load_numbers(call.inputs[0]);
  std::vector<double> dinput(static_cast<size_t>(call.outputs[0].shape.elements()), 0.0);
  for (int64_t i = 0; i < items.count(); ++i) {
    if (!items.is_ignored(i)) dinput[items.score_at(i, items.label(i))] = -upstream(items, dloss, i);
  }
  store_all(call.outputs[0], dinput);
}

}  // namespace mpc::reference
