#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/ir/graph.h"
#include "passes/loss_scale.h"

namespace mpc {

enum class OptimizerKind : uint8_t { sgd, momentum, adam, adamw };

/// One optimizer's hyperparameters. Defaults are PyTorch's.
struct OptimizerSpec {
  OptimizerKind kind = OptimizerKind::sgd;
  double learning_rate = 0.01;
  double momentum = 0.9;    // momentum
  double dampening = 0;     // momentum
  bool nesterov = false;    // momentum
  double beta1 = 0.9;       // adam, adamw
  double beta2 = 0.999;     // adam, adamw
  double epsilon = 1e-8;    // adam, adamw
  double weight_decay = 0;  // L2 for sgd, momentum, adam; decoupled for adamw
};

/// Parses "adam,lr=0.001,beta1=0.9": a name, then settings by name (lr, momentum, dampening, nesterov, beta1, beta2,
/// eps, weight_decay).
/// @throws Error(M002, M003).
OptimizerSpec parse_optimizer(std::string_view text);
std::string_view optimizer_name(OptimizerKind kind);

/// Parameters whose name matches `pattern` (whole name) use `optimizer`. The first group that matches counts.
struct ParameterGroup {
  std::string pattern;
  OptimizerSpec optimizer;
};

struct OptimizerOptions {
  OptimizerSpec optimizer;
  std::vector<ParameterGroup> groups;
  /// Gradients are scaled so that their norm over all parameters is at most this. 0: off.
  double clip_norm = 0;
  /// By what the gradients are multiplied (passes/loss_scale.h); they are divided by it, and a step with one that is no
  /// number changes nothing.
  std::optional<LossScale> loss_scale = {};
};

/// Names of the inputs that add_optimizer adds; the session supplies them.
inline constexpr std::string_view kStepInput = "mpc.step";
inline constexpr std::string_view kLearningRateScaleInput = "mpc.learning_rate_scale";

/// Adds an update node for every parameter that has a gradient, with its state beside it (phase update, per step,
/// anchored where the parameter lives), and global-norm clipping when asked: sum over parameters in ascending order of
/// squares, then one scale for all.
/// @pre stage training. @throws Error(M003) for a pattern that is not a regular expression.
Graph add_optimizer(const Graph& graph, const OptimizerOptions& options);

}  // namespace mpc
