#pragma once

#include <optional>
#include <string>
#include <vector>

#include "compiler/base/attributes.h"
#include "compiler/base/literal.h"
#include "compiler/base/op_kind.h"
#include "compiler/base/shape.h"

// Samples: small cases of every op that conformance takes through inference, text, gradient and every backend.

namespace mpc::samples {

/// How an operand is filled: uniform numbers in [low, high) from a seed derived from the sample's name (for integers
/// and bool, whole numbers in [low, high)), or the given numbers.
struct Operand {
  DType dtype = DType::f32;
  Shape shape;
  double low = -1;
  double high = 1;
  std::vector<double> numbers;  // when not empty: all elements
};

struct Sample {
  std::string name;  // unique within the op
  OpKind op{};
  std::vector<std::optional<Operand>> inputs;
  Attributes attributes;
  std::vector<bool> outputs = {true};  // which outputs are asked for
  double tolerance = 1e-5;     // ||difference|| / ||reference|| of a backend's f32 result; state why when larger
  bool check_gradient = true;  // finite differences in f64 (only when the op is differentiable and operands are f32)
  double gradient_tolerance = 1e-6;  // relative; state why when larger
};

/// One function per file of samples; tests/ops/samples.cpp lists them.
using SampleList = std::vector<Sample>;
SampleList attention_samples();
SampleList elementwise_samples();
SampleList reduction_samples();
SampleList training_samples();
SampleList linear_samples();
SampleList convolution_samples();
SampleList pooling_samples();
SampleList normalization_samples();
SampleList loss_samples();
SampleList recurrent_samples();
SampleList shape_samples();
SampleList index_samples();

/// All samples of all ops.
const SampleList& all_samples();

/// The operands of a sample. With Floats::f64, f32 operands are f64 instead.
enum class Floats { as_stated, f64 };
std::vector<std::optional<Literal>> operands_of(const Sample& sample, Floats floats = Floats::as_stated);

}  // namespace mpc::samples
