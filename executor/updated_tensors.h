#pragma once

#include <array>

#include "executor/kernel.h"

namespace mpc {

/// Calls f for each tensor that a node of an optimizer updates, with a call of that tensor alone: p, g, `kStates`
/// states, step, lr_scale, grad_scale?.
template <size_t kStates, class F>
void for_each_updated(const KernelCall& call, F&& f) {
  constexpr size_t kInputs = 2 + kStates;
  constexpr size_t kResults = 1 + kStates;
  constexpr size_t kMostScalars = 3;
  const size_t tensors = call.outputs.size() / kResults;
  std::array<TensorView, kInputs + kMostScalars> inputs{};
  for (size_t k = 0; k < kMostScalars && tensors * kInputs + k < call.inputs.size(); ++k)
    inputs[kInputs + k] = call.inputs[tensors * kInputs + k];
  for (size_t t = 0; t < tensors; ++t) {
    for (size_t k = 0; k < kInputs; ++k) inputs[k] = call.inputs[t * kInputs + k];
    f(KernelCall{call.attributes, inputs, call.outputs.subspan(t * kResults, kResults), call.step, call.workspace});
  }
}

}  // namespace mpc
