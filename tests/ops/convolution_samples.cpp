#include "tests/ops/sample.h"

// Samples of Conv and its gradients.

namespace mpc::samples {
namespace {

using Dims = std::vector<int64_t>;

Operand of(Shape shape, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .numbers = {}};
}

void add_conv(SampleList& list) {
  const auto add = [&](std::string name, std::vector<std::optional<Operand>> inputs, Attributes attributes = {}) {
    list.push_back({.name = std::move(name),
                    .op = OpKind::Conv,
                    .inputs = std::move(inputs),
                    .attributes = std::move(attributes)});
  };
  add("plain", {of({2, 3, 6, 5}), of({4, 3, 3, 3})});
  add("bias and pads", {of({1, 2, 5, 5}), of({3, 2, 3, 3}), of({3})}, {{"pads", Dims{1, 1, 1, 1}}});
  add("uneven pads", {of({1, 1, 4, 5}), of({2, 1, 3, 2})}, {{"pads", Dims{0, 1, 2, 0}}});
  add("strides", {of({1, 2, 7, 8}), of({2, 2, 3, 3})}, {{"strides", Dims{2, 3}}});
  add("dilations", {of({1, 2, 7, 8}), of({2, 2, 3, 2})}, {{"dilations", Dims{2, 3}}, {"pads", Dims{1, 2, 1, 2}}});
  add("groups", {of({2, 4, 5, 5}), of({6, 2, 3, 3}), of({6})}, {{"group", int64_t{2}}});
  add("depthwise", {of({1, 3, 6, 6}), of({3, 1, 3, 3})},
      {{"group", int64_t{3}}, {"pads", Dims{1, 1, 1, 1}}, {"strides", Dims{2, 2}}});
  add("pointwise", {of({2, 5, 3, 4}), of({3, 5, 1, 1}), of({3})});
  add("SAME_UPPER", {of({1, 1, 5, 6}), of({1, 1, 2, 3})},
      {{"auto_pad", std::string("SAME_UPPER")}, {"strides", Dims{2, 1}}});
  add("SAME_LOWER", {of({1, 1, 5, 6}), of({1, 1, 2, 3})},
      {{"auto_pad", std::string("SAME_LOWER")}, {"strides", Dims{2, 1}}});
  add("VALID", {of({1, 1, 5, 6}), of({1, 1, 2, 3})},
      {{"auto_pad", std::string("VALID")}, {"kernel_shape", Dims{2, 3}}});
  add("one dimension", {of({2, 3, 9}), of({4, 3, 4}), of({4})}, {{"pads", Dims{2, 1}}, {"strides", Dims{2}}});
  add("one wide", {of({2, 3, 9, 1}), of({4, 3, 4, 1}), of({4})}, {{"pads", Dims{2, 0, 1, 0}}, {"strides", Dims{2, 1}}});
  add("three dimensions", {of({1, 2, 4, 3, 5}), of({2, 2, 2, 3, 2}), of({2})},
      {{"pads", Dims{1, 0, 0, 0, 1, 1}}, {"strides", Dims{1, 2, 1}}});
  add("window as large as x", {of({2, 2, 3, 3}), of({3, 2, 3, 3})});
  add("an empty batch", {of({0, 2, 4, 4}), of({3, 2, 3, 3}), of({3})});
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    add(std::string(dtype_name(dtype)), {of({1, 2, 5, 5}, dtype), of({3, 2, 3, 3}, dtype), of({3}, dtype)});
  }
  add("channels last", {of({2, 6, 5, 3}), of({4, 3, 2, 3}), of({4})},
      {{"pads", Dims{1, 0, 1, 1}}, {"strides", Dims{2, 1}}, {"channels_last", int64_t{1}}});
  add("channels last, in groups", {of({1, 5, 6, 4}), of({6, 2, 3, 2})},
      {{"group", int64_t{2}}, {"dilations", Dims{2, 1}}, {"channels_last", int64_t{1}}});
  add("channels last, in bf16", {of({1, 5, 5, 2}, DType::bf16), of({3, 3, 3, 2}, DType::bf16)},
      {{"channels_last", int64_t{1}}});
}

void add_conv_gradients(SampleList& list) {
  // x, w and y of one convolution: the same case serves both gradients.
  const auto add = [&](const std::string& name, Shape x, Shape w, Shape y, Attributes attributes,
                       DType dtype = DType::f32) {
    Attributes for_x = attributes;
    for_x.set("shape", x.to_vector());
    list.push_back(
        {.name = name, .op = OpKind::ConvInputGrad, .inputs = {of(y, dtype), of(w, dtype)}, .attributes = for_x});
    Attributes for_w = attributes;
    for_w.set("shape", w.to_vector());
    list.push_back(
        {.name = name, .op = OpKind::ConvWeightGrad, .inputs = {of(y, dtype), of(x, dtype)}, .attributes = for_w});
  };
  add("plain", {2, 3, 6, 5}, {4, 3, 3, 3}, {2, 4, 4, 3}, {});
  add("pads and strides", {1, 2, 5, 6}, {3, 2, 3, 3}, {1, 3, 3, 3},
      {{"pads", Dims{1, 1, 1, 1}}, {"strides", Dims{2, 2}}});
  add("elements that no window reaches", {1, 1, 6, 6}, {1, 1, 2, 2}, {1, 1, 2, 2}, {{"strides", Dims{3, 3}}});
  add("dilations and groups", {1, 4, 7, 7}, {4, 2, 2, 3}, {1, 4, 5, 3},
      {{"dilations", Dims{2, 2}}, {"group", int64_t{2}}});
  add("one dimension", {2, 3, 8}, {2, 3, 3}, {2, 2, 6}, {});
  add("one wide, with groups", {2, 4, 9, 1}, {6, 2, 3, 1}, {2, 6, 4, 1},
      {{"group", int64_t{2}}, {"strides", Dims{2, 3}}});
  add("one high and one wide", {2, 3, 1, 1}, {4, 3, 1, 1}, {2, 4, 1, 1}, {});
  add("three dimensions", {1, 1, 3, 4, 3}, {2, 1, 2, 2, 2}, {1, 2, 2, 3, 2}, {});
  add("an empty batch", {0, 2, 4, 4}, {3, 2, 3, 3}, {0, 3, 2, 2}, {});
  add("f64", {1, 2, 4, 4}, {3, 2, 3, 3}, {1, 3, 2, 2}, {}, DType::f64);
  add("f16", {1, 2, 4, 4}, {3, 2, 3, 3}, {1, 3, 2, 2}, {}, DType::f16);
  add("channels last", {2, 5, 6, 3}, {4, 3, 2, 3}, {2, 3, 5, 4},
      {{"pads", Dims{1, 0, 1, 0}}, {"strides", Dims{2, 1}}, {"channels_last", int64_t{1}}});
  add("channels last, in groups", {1, 7, 7, 4}, {4, 2, 3, 2}, {1, 5, 3, 4},
      {{"dilations", Dims{2, 2}}, {"group", int64_t{2}}, {"channels_last", int64_t{1}}});
}

}  // namespace

SampleList convolution_samples() {
  SampleList list;
  add_conv(list);
  add_conv_gradients(list);
  return list;
}

}  // namespace mpc::samples
