#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/ir/graph.h"

namespace mpc {

enum class LossKind : uint8_t { cross_entropy, nll, mse, l1, bce_with_logits, none };

/// "cross-entropy", "nll", "mse", "l1", "bce-with-logits"; the names of --loss.
std::optional<LossKind> parse_loss(std::string_view name);
std::vector<std::string> loss_names();

struct LossOptions {
  LossKind kind = LossKind::cross_entropy;
  /// The model output the loss is taken of; empty: the only one.
  std::string output;
  /// Share of this micro-batch in the whole batch, n_i / N: the mean over the batch is the sum of the weighted means.
  double weight = 1;
  /// Does the model keep its own outputs?
  bool keeps_outputs = true;
  /// Of class losses: items of this label count nothing, and the mean is over the others of the whole batch.
  std::optional<int64_t> ignored_label = {};
};

/// The name of the output that add_loss adds.
inline constexpr std::string_view kLossOutput = "loss";
/// The name of the input that add_loss adds.
inline constexpr std::string_view kLabelsInput = "labels";
/// With an ignored label, another: one over the number of labels of the batch that count, whatever the micro-batch.
inline constexpr std::string_view kLabelShareInput = "mpc.label_share";
/// What the names of its nodes begin with.
inline constexpr std::string_view kLossScope = "loss/";

/// Adds an input `labels` and nodes `loss/...` that compute the mean loss of the micro-batch times `weight`:
///  cross_entropy    -log softmax(y)[label], mean over labels; y (n, C) or (n, C, d...), or (n, s, C) of rank 3 with
///  the classes last
///                   when the model is a language model (i64 inputs); labels i64
///  nll              -y[label], y holds log probabilities
///  mse, l1          mean of (y - t)^2, |y - t|; t like y
///  bce_with_logits  mean of max(y, 0) - y t + log(1 + exp(-|y|)); t like y
/// With an ignored label class losses are the micro-batch's sum times the input `mpc.label_share` (per step).
/// Sets graph.loss and adds an output "loss". Kind none: the model's output is the loss already (a scalar).
/// @throws Error(M002) for an unknown output, Error(M003) for an ignored label of a loss without classes, Error(M032)
/// when its shape does not fit, Error(M046) when another output
/// is called "loss".
Graph add_loss(const Graph& graph, const LossOptions& options);

}  // namespace mpc
