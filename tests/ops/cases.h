#pragma once

#include <string>

#include "executor/backend.h"
#include "tests/ops/sample.h"
#include "tests/support/interpreter.h"

// Samples as backends run them.

namespace mpc::test {

/// "op: sample".
std::string full_name(const samples::Sample& sample);

/// A sample after inference.
struct Case {
  Attributes attributes;
  Tensors inputs;
  Types outputs;
};
Case case_of(const samples::Sample& sample, samples::Floats floats = samples::Floats::as_stated);

/// What a backend's kernel is made for. Refers to `attributes`.
executor::NodeSpec node_of(OpKind op, const Attributes& attributes, const Tensors& inputs, const Types& outputs);

/// The step that samples are run in: the second micro-batch of the third one, not the case in which GradAccumulate
/// stores.
inline constexpr StepContext kSampleStep{.step = 2, .microbatch = 1, .seed = 42};

}  // namespace mpc::test
