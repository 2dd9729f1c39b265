#pragma once

#include <cstdint>
#include <optional>

#include "compiler/ir/graph.h"

namespace mpc {

/// Training in f16 multiplies the loss, and so every gradient, by a scale that keeps small gradients above f16's
/// smallest number. A step whose gradients overflow changes nothing and halves the scale; after `growth_interval` steps
/// without one the scale doubles. Source: P. Micikevicius et al., "Mixed precision training", arXiv:1710.03740, 3.2;
/// constants of torch.cuda.amp.GradScaler.
struct LossScaleOptions {
  double initial = 65536;
  int64_t growth_interval = 2000;
};

/// The values that carry it from step to step, f32 scalars: they live where they are updated, in device memory.
struct LossScale {
  ValueId scale;    // by what the loss is multiplied, a power of two
  ValueId good;     // steps since the last overflow or doubling
  ValueId skipped;  // steps that changed nothing; exact up to 2^24
  LossScaleOptions options;
};

/// Adds them to the graph as states `loss_scale`, `loss_scale/good`, `loss_scale/skipped`.
LossScale add_loss_scale(Graph& graph, const LossScaleOptions& options);

}  // namespace mpc
