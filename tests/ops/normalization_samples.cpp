#include "tests/ops/sample.h"

// Samples of the normalizations and of Softmax and LogSoftmax, with their gradients.

namespace mpc::samples {
namespace {

using Inputs = std::vector<std::optional<Operand>>;

Operand of(Shape shape, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .low = -2, .high = 2, .numbers = {}};
}
Operand positive(Shape shape, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .low = 0.5, .high = 2, .numbers = {}};
}

Sample sample(OpKind op, std::string name, Inputs inputs, Attributes attributes = {}) {
  return {.name = std::move(name), .op = op, .inputs = std::move(inputs), .attributes = std::move(attributes)};
}

void add_softmax(SampleList& list) {
  const auto add = [&](const std::string& name, const Operand& x, const Attributes& attributes = {}) {
    for (const OpKind op : {OpKind::Softmax, OpKind::LogSoftmax}) list.push_back(sample(op, name, {x}, attributes));
    for (const OpKind op : {OpKind::SoftmaxGrad, OpKind::LogSoftmaxGrad})
      list.push_back(sample(op, name, {x, x}, attributes));
  };
  add("last axis", of({4, 10}));
  add("odd length", of({3, 37}), {{"axis", int64_t{1}}});
  add("first axis", of({5, 3}), {{"axis", int64_t{0}}});
  add("axis in the middle", of({2, 3, 4}), {{"axis", int64_t{-2}}});
  add("axis outside of many", of({2, 5, 37}), {{"axis", int64_t{1}}});
  add("length one", of({3, 1}));
  add("vector", of({6}));
  add("large numbers", {.shape = {2, 5}, .low = 1000, .high = 1003, .numbers = {}});
  add("no rows", of({0, 4}));
  add("no classes", of({3, 0}));
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16})
    add(std::string(dtype_name(dtype)), of({3, 9}, dtype));
}

/// x, scale, B, mean and variance for `channels` channels.
Inputs batch_inputs(Shape x, DType dtype = DType::f32, DType parameters = DType::f32, DType statistics = DType::f32) {
  const Shape c{x[1]};
  return {of(x, dtype), positive(c, parameters), of(c, parameters), of(c, statistics), positive(c, statistics)};
}

void add_batch_normalization(SampleList& list) {
  const auto add = [&](const std::string& name, const Inputs& inputs, const Attributes& attributes = {}) {
    list.push_back(sample(OpKind::BatchNormalization, name, inputs, attributes));
    list.push_back(sample(OpKind::BatchNormalizationTraining, name, inputs, attributes));
    // The updated statistics are no part of the loss, so finite differences over all results would say another thing.
    Sample all = sample(OpKind::BatchNormalizationTraining, name + ", all results", inputs, attributes);
    all.outputs = {true, true, true, true, true};
    all.check_gradient = false;
    list.push_back(all);

    Attributes for_grad = attributes;
    for_grad.erase("momentum");
    const DType x_dtype = inputs[0]->dtype;
    const DType statistics = x_dtype == DType::f64 ? DType::f64 : DType::f32;
    const Shape c = inputs[1]->shape;
    Sample grad = sample(
        OpKind::BatchNormalizationGrad, name,
        {of(inputs[0]->shape, x_dtype), inputs[0], inputs[1], of(c, statistics), positive(c, statistics)}, for_grad);
    grad.outputs = {true, true, true};
    list.push_back(grad);
    grad.name += ", without statistics";
    grad.inputs.resize(3);
    list.push_back(grad);
  };
  add("plain", batch_inputs({2, 3, 4, 5}));
  add("no positions", batch_inputs({6, 3}));
  add("one dimension", batch_inputs({3, 2, 5}), {{"epsilon", 0.01}, {"momentum", 0.8}});
  add("three dimensions", batch_inputs({2, 2, 2, 3, 2}));
  add("an empty batch", batch_inputs({0, 3, 2}));
  add("f64", batch_inputs({3, 2, 4}, DType::f64, DType::f64, DType::f64));
  add("f16 with f32 parameters", batch_inputs({3, 2, 4}, DType::f16));
  add("bf16", batch_inputs({3, 2, 4}, DType::bf16, DType::bf16, DType::bf16));
}

void add_layer_normalization(SampleList& list) {
  const auto add = [&](const std::string& name, const Inputs& inputs, const Attributes& attributes = {}) {
    list.push_back(sample(OpKind::LayerNormalization, name, inputs, attributes));
    list.push_back(sample(OpKind::LayerNormalizationGrad, name,
                          {of(inputs[0]->shape, inputs[0]->dtype), inputs[0], inputs[1]}, attributes));
    list.push_back(
        sample(OpKind::LayerNormalizationGrad, name + ", added to",
               {of(inputs[0]->shape, inputs[0]->dtype), inputs[0], inputs[1], of(inputs[0]->shape, inputs[0]->dtype)},
               attributes));
    Sample weights = sample(OpKind::LayerNormalizationWeightGrad, name,
                            {of(inputs[0]->shape, inputs[0]->dtype), inputs[0]}, attributes);
    weights.outputs = {true, true};
    list.push_back(weights);
  };
  add("last axis", {of({3, 8}), positive({8}), of({8})});
  add("without bias", {of({3, 8}), positive({8})});
  add("odd length", {of({2, 3, 37}), positive({37}), of({37})});
  add("two axes", {of({2, 3, 4}), positive({3, 4}), of({3, 4})}, {{"axis", int64_t{1}}});
  add("all axes", {of({3, 4}), positive({3, 4}), of({3, 4})}, {{"axis", int64_t{0}}, {"epsilon", 0.1}});
  add("scale of one element", {of({3, 4}), positive({1}), of({})});
  add("scale with leading ones", {of({2, 3, 4}), positive({1, 1, 4}), of({1, 1, 1})});
  add("scale that stretches", {of({2, 3, 4}), positive({1, 4}), of({3, 1})}, {{"axis", int64_t{1}}});
  add("scale per row", {of({2, 3, 4}), positive({2, 1, 4}), of({3, 4})}, {{"axis", int64_t{2}}});
  add("no rows", {of({0, 4}), positive({4}), of({4})});
  add("no columns", {of({3, 0}), positive({0}), of({0})});
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    add(std::string(dtype_name(dtype)), {of({3, 9}, dtype), positive({9}, dtype), of({9}, dtype)});
  }
  // Mean and InvStdDev have no gradient.
  Sample all = sample(OpKind::LayerNormalization, "Mean and InvStdDev", {of({2, 3, 4}), positive({3, 4}), of({3, 4})},
                      {{"axis", int64_t{-2}}});
  all.outputs = {true, true, true};
  all.check_gradient = false;
  list.push_back(all);
  all.name = "Mean and InvStdDev in bf16";
  all.attributes.set("stash_type", int64_t{16});
  list.push_back(all);
}

void add_rms_normalization(SampleList& list) {
  const auto add = [&](const std::string& name, const Inputs& inputs, const Attributes& attributes = {}) {
    const Operand dy = of(inputs[0]->shape, inputs[1]->dtype);
    list.push_back(sample(OpKind::RMSNormalization, name, inputs, attributes));
    list.push_back(sample(OpKind::RMSNormalizationGrad, name, {dy, inputs[0], inputs[1]}, attributes));
    list.push_back(sample(OpKind::RMSNormalizationGrad, name + ", added to",
                          {dy, inputs[0], inputs[1], of(inputs[0]->shape, inputs[0]->dtype)}, attributes));
    list.push_back(sample(OpKind::RMSNormalizationWeightGrad, name, {dy, inputs[0]}, attributes));
  };
  add("last axis", {of({3, 8}), positive({8})});
  add("two axes", {of({2, 3, 4}), positive({3, 4})}, {{"axis", int64_t{-2}}, {"epsilon", 0.1}});
  add("scale of one element", {of({3, 4}), positive({})});
  add("scale per row", {of({2, 3, 4}), positive({3, 1})});
  add("no rows", {of({0, 4}), positive({4})});
  add("f16 with an f32 scale", {of({3, 9}, DType::f16), positive({9})});
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    add(std::string(dtype_name(dtype)), {of({3, 9}, dtype), positive({9}, dtype)});
  }
}

/// What passes/fold_casts makes: results in 16 bits, too or alone, and gradients that come in 16 bits.
void add_rounded_normalization(SampleList& list) {
  constexpr DType kLow = DType::bf16;
  const Operand x = of({3, 9});
  const Operand scale = positive({9});
  const Attributes rounded = {{"rounded", std::string("bf16")}};
  const auto add = [&](OpKind op, const std::string& name, const Inputs& inputs, std::vector<bool> outputs) {
    for (const bool is_also : {true, false}) {
      Sample made = sample(op, name + (is_also ? " in f32 and bf16" : " in bf16 alone"), inputs, rounded);
      made.outputs = outputs;
      made.outputs[0] = is_also;
      made.check_gradient = false;
      list.push_back(made);
    }
  };
  add(OpKind::LayerNormalization, "y", {x, scale, of({9})}, {true, false, false, true});
  add(OpKind::LayerNormalization, "y and its statistics", {x, scale, of({9})}, {true, true, true, true});
  add(OpKind::RMSNormalization, "y", {x, scale}, {true, true});
  for (const OpKind op : {OpKind::LayerNormalizationGrad, OpKind::RMSNormalizationGrad}) {
    add(op, "dx", {x, x, scale}, {true, true});
    add(op, "dx of dy in bf16", {of({3, 9}, kLow), x, scale}, {true, true});
    add(op, "dx of dy in bf16, added to,", {of({3, 9}, kLow), x, scale, x}, {true, true});
    list.push_back(sample(op, "dy in f16", {of({3, 9}, DType::f16), x, scale}));
  }
  Sample weights = sample(OpKind::LayerNormalizationWeightGrad, "dy in bf16, unrounded",
                          {of({37, 9}, kLow), of({37, 9})}, {{"to", std::string("f32")}});
  weights.outputs = {true, true};
  list.push_back(weights);
  weights.op = OpKind::RMSNormalizationWeightGrad;
  weights.outputs = {true};
  list.push_back(weights);
}

void add_lrn(SampleList& list) {
  const auto add = [&](const std::string& name, const Operand& x, const Attributes& attributes) {
    list.push_back(sample(OpKind::LRN, name, {x}, attributes));
    list.push_back(sample(OpKind::LRNGrad, name, {x, x}, attributes));
  };
  // alpha is large, so that the window counts in the result.
  add("odd size", of({2, 5, 3, 2}), {{"size", int64_t{3}}, {"alpha", 0.5}});
  add("even size", of({1, 6, 4}), {{"size", int64_t{4}}, {"alpha", 0.5}, {"beta", 0.5}, {"bias", 2.0}});
  add("wider than the channels", of({2, 3, 2, 2}), {{"size", int64_t{9}}, {"alpha", 0.9}});
  add("size of one", of({3, 4}), {{"size", int64_t{1}}, {"alpha", 0.5}});
  add("defaults", of({1, 8, 3, 3}), {{"size", int64_t{5}}});
  add("an empty batch", of({0, 3, 2}), {{"size", int64_t{3}}});
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    add(std::string(dtype_name(dtype)), of({1, 4, 3}, dtype), {{"size", int64_t{3}}, {"alpha", 0.5}});
  }
}

}  // namespace

SampleList normalization_samples() {
  SampleList list;
  add_softmax(list);
  add_batch_normalization(list);
  add_layer_normalization(list);
  add_rms_normalization(list);
  add_rounded_normalization(list);
  add_lrn(list);
  return list;
}

}  // namespace mpc::samples
