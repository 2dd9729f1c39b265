#include "tests/ops/sample.h"

// Samples of the losses. Labels are within the classes but where ignore_index says otherwise.

namespace mpc::samples {
namespace {

using Numbers = std::vector<double>;
using Text = std::string;

Operand of(Shape shape, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .low = -3, .high = 3, .numbers = {}};
}
Operand positive(Shape shape, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .low = 0.5, .high = 2, .numbers = {}};
}
Operand labels(Shape shape, double classes, DType dtype = DType::i64) {
  return {.dtype = dtype, .shape = shape, .low = 0, .high = classes, .numbers = {}};
}
Operand label_list(Shape shape, Numbers numbers) {
  return {.dtype = DType::i64, .shape = shape, .numbers = std::move(numbers)};
}

Shape loss_shape(const Operand& labels, const Attributes& attributes) {
  return attributes.has("reduction") && attributes.text("reduction") == "none" ? labels.shape : Shape{};
}

/// One case for both losses and both gradients.
void add(SampleList& list, const std::string& name, const Operand& scores, const Operand& labels,
         std::optional<Operand> weights, const Attributes& attributes) {
  std::vector<std::optional<Operand>> inputs = {scores, labels};
  if (weights) inputs.push_back(weights);
  for (const OpKind op : {OpKind::SoftmaxCrossEntropyLoss, OpKind::NegativeLogLikelihoodLoss}) {
    list.push_back({.name = name, .op = op, .inputs = inputs, .attributes = attributes});
  }
  inputs.insert(inputs.begin(), of(loss_shape(labels, attributes), scores.dtype));
  for (const OpKind op : {OpKind::SoftmaxCrossEntropyLossGrad, OpKind::NegativeLogLikelihoodLossGrad}) {
    list.push_back({.name = name, .op = op, .inputs = inputs, .attributes = attributes});
  }
}

}  // namespace

SampleList loss_samples() {
  SampleList list;
  for (const char* reduction : {"mean", "sum", "none"}) {
    const Text suffix = Text(", ") + reduction;
    const Attributes attributes = {{"reduction", Text(reduction)}};
    Attributes ignoring = attributes;
    ignoring.set("ignore_index", int64_t{1});
    Attributes ignoring_outside = attributes;
    ignoring_outside.set("ignore_index", int64_t{-100});
    Attributes scaled = attributes;
    scaled.set("scale", 0.25);
    add(list, "plain" + suffix, of({5, 4}), labels({5}, 4), {}, attributes);
    add(list, "weights" + suffix, of({5, 4}), labels({5}, 4), positive({4}), attributes);
    add(list, "positions" + suffix, of({2, 3, 2, 4}), labels({2, 2, 4}, 3), {}, attributes);
    add(list, "positions and weights" + suffix, of({2, 3, 5}), labels({2, 5}, 3), positive({3}), attributes);
    add(list, "ignore_index" + suffix, of({6, 3}), label_list({6}, {0, 1, 2, 1, 1, 0}), {}, ignoring);
    add(list, "ignore_index and weights" + suffix, of({6, 3}), label_list({6}, {0, 1, 2, 1, 1, 0}), positive({3}),
        ignoring);
    add(list, "ignore_index that is no class" + suffix, of({4, 3}), label_list({4}, {0, -100, 2, -100}), {},
        ignoring_outside);
    add(list, "all ignored" + suffix, of({3, 3}), label_list({3}, {1, 1, 1}), {}, ignoring);
    add(list, "scale" + suffix, of({5, 4}), labels({5}, 4), positive({4}), scaled);
    add(list, "no items" + suffix, of({0, 4}), labels({0}, 4), {}, attributes);
    add(list, "i32 labels" + suffix, of({5, 4}), labels({5}, 4, DType::i32), {}, attributes);
    for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
      add(list, Text(dtype_name(dtype)) + suffix, of({5, 4}, dtype), labels({5}, 4), positive({4}, dtype), attributes);
    }
  }
  list.push_back({.name = "large scores",
                  .op = OpKind::SoftmaxCrossEntropyLoss,
                  .inputs = {Operand{.shape = {3, 4}, .low = 995, .high = 1005, .numbers = {}}, labels({3}, 4)},
                  .attributes = {}});
  list.push_back({.name = "log_prob",
                  .op = OpKind::SoftmaxCrossEntropyLoss,
                  .inputs = {of({3, 4, 2}), labels({3, 2}, 4)},
                  .attributes = {},
                  .outputs = {true, true}});
  list.push_back({.name = "log_prob only",
                  .op = OpKind::SoftmaxCrossEntropyLoss,
                  .inputs = {of({3, 4}), labels({3}, 4)},
                  .attributes = {},
                  .outputs = {false, true}});
  return list;
}

}  // namespace mpc::samples
