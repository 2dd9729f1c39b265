#include "passes/loss_scale.h"

namespace mpc {

LossScale add_loss_scale(Graph& graph, const LossScaleOptions& options) {
  LossScale result;
  result.scale = graph.add_state("loss_scale", Literal::scalar(DType::f32, options.initial));
  result.good = graph.add_state("loss_scale/good", Literal::scalar(DType::f32, 0));
  result.skipped = graph.add_state("loss_scale/skipped", Literal::scalar(DType::f32, 0));
  result.options = options;
  return result;
}

}  // namespace mpc
