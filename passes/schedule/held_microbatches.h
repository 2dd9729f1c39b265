#pragma once

#include <algorithm>
#include <limits>

namespace mpc {

/// Of how many micro-batches a stage of a pipeline holds activations at once.
struct Held {
  double in_flight = 1;  // from their forward to the end of their backward pass
  double owed = 0;       // done but for weight gradients: what those read

  /// Bytes of a stage that keeps so many for the backward pass of a micro-batch, and for its weight gradients.
  double bytes(double kept, double kept_for_weights) const { return kept * in_flight + kept_for_weights * owed; }
};

/// That as a closed form of a schedule (held_microbatches in rules.h). Where several parts of a device are stages, what
/// the device holds is shared out evenly among them.
struct HeldMicrobatches {
  static constexpr double kAll = std::numeric_limits<double>::infinity();

  double per_stage_behind = 1;  // for the stage's device and every one behind it
  double per_stage = 0;         // for every device
  double fixed = 0;
  double owed_per_stage_before = 0;
  int parts = 1;  // of each device, which stages go round

  bool operator==(const HeldMicrobatches&) const = default;

  /// What stage `stage` of `stages` (0: the first) holds of a step of `microbatches`.
  Held of(int stage, int stages, int microbatches) const {
    const int devices = std::max(1, (stages + parts - 1) / parts);
    const int before = stage % devices;
    const double on_device = per_stage_behind * (devices - before) + per_stage * devices + fixed;
    const double in_flight = std::max(1.0, std::min<double>(microbatches, on_device / parts));
    return {in_flight, std::min(microbatches - in_flight, owed_per_stage_before * before)};
  }
};

}  // namespace mpc
