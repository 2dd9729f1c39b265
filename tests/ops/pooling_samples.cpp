#include <limits>

#include "tests/ops/sample.h"

// Samples of the pools and Resize, with their gradients. Operands of MaxPool are drawn from a wide range, so that two
// elements of a window are nearer to each other than a finite difference only by a chance of about 1e-4 per window.

namespace mpc::samples {
namespace {

using Dims = std::vector<int64_t>;
using Numbers = std::vector<double>;
using Text = std::string;

Operand of(Shape shape, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .low = -10, .high = 10, .numbers = {}};
}
Operand of_numbers(Shape shape, Numbers numbers, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .numbers = std::move(numbers)};
}

/// The same cases for both pools.
void add_pools(SampleList& list) {
  const auto add = [&](const std::string& name, const Operand& x, const Attributes& attributes) {
    for (const OpKind op : {OpKind::MaxPool, OpKind::AveragePool}) {
      list.push_back({.name = name, .op = op, .inputs = {x}, .attributes = attributes});
    }
  };
  add("plain", of({2, 3, 6, 6}), {{"kernel_shape", Dims{2, 2}}, {"strides", Dims{2, 2}}});
  add("overlapping windows", of({1, 2, 5, 6}), {{"kernel_shape", Dims{3, 3}}});
  add("pads", of({1, 2, 5, 6}), {{"kernel_shape", Dims{3, 3}}, {"pads", Dims{1, 1, 1, 1}}, {"strides", Dims{2, 2}}});
  add("uneven pads", of({1, 1, 4, 5}), {{"kernel_shape", Dims{3, 2}}, {"pads", Dims{2, 0, 1, 1}}});
  add("ceil_mode", of({1, 2, 6, 7}),
      {{"kernel_shape", Dims{3, 3}}, {"strides", Dims{2, 2}}, {"ceil_mode", int64_t{1}}});
  add("ceil_mode and pads", of({1, 1, 4, 4}),
      {{"kernel_shape", Dims{3, 3}}, {"strides", Dims{2, 2}}, {"pads", Dims{1, 1, 1, 1}}, {"ceil_mode", int64_t{1}}});
  add("ceil_mode: no window begins in the pads at the end", of({1, 1, 2, 2}),
      {{"kernel_shape", Dims{1, 1}}, {"strides", Dims{2, 2}}, {"pads", Dims{0, 0, 1, 1}}, {"ceil_mode", int64_t{1}}});
  add("dilations", of({1, 1, 7, 8}),
      {{"kernel_shape", Dims{2, 3}}, {"dilations", Dims{3, 2}}, {"pads", Dims{1, 1, 1, 1}}});
  add("SAME_UPPER", of({1, 1, 5, 5}),
      {{"kernel_shape", Dims{3, 2}}, {"strides", Dims{2, 2}}, {"auto_pad", Text("SAME_UPPER")}});
  add("SAME_LOWER", of({1, 1, 5, 5}),
      {{"kernel_shape", Dims{3, 2}}, {"strides", Dims{2, 2}}, {"auto_pad", Text("SAME_LOWER")}});
  add("VALID", of({1, 1, 5, 5}), {{"kernel_shape", Dims{3, 2}}, {"strides", Dims{2, 2}}, {"auto_pad", Text("VALID")}});
  add("one dimension", of({2, 3, 9}), {{"kernel_shape", Dims{4}}, {"strides", Dims{3}}});
  add("three dimensions", of({1, 2, 4, 4, 5}), {{"kernel_shape", Dims{2, 2, 3}}, {"strides", Dims{2, 1, 2}}});
  add("an empty batch", of({0, 2, 4, 4}), {{"kernel_shape", Dims{2, 2}}});
  add("channels last", of({2, 6, 5, 3}),
      {{"kernel_shape", Dims{3, 2}},
       {"strides", Dims{2, 1}},
       {"pads", Dims{1, 0, 1, 1}},
       {"channels_last", int64_t{1}}});
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    add(std::string(dtype_name(dtype)), of({1, 2, 5, 5}, dtype),
        {{"kernel_shape", Dims{3, 3}}, {"strides", Dims{2, 2}}});
  }
}

void add_max_pool(SampleList& list) {
  const auto add = [&](std::string name, Operand x, Attributes attributes, std::vector<bool> outputs = {true, true}) {
    list.push_back({.name = std::move(name),
                    .op = OpKind::MaxPool,
                    .inputs = {std::move(x)},
                    .attributes = std::move(attributes),
                    .outputs = std::move(outputs)});
  };
  const double kNaN = std::numeric_limits<double>::quiet_NaN();
  add("Indices", of({2, 2, 4, 5}), {{"kernel_shape", Dims{2, 2}}});
  add("Indices column-major", of({1, 2, 4, 5}), {{"kernel_shape", Dims{3, 2}}, {"storage_order", int64_t{1}}});
  add("Indices of the first of equals", of_numbers({1, 1, 2, 3}, {1, 1, 1, 1, 1, 1}, DType::f64),
      {{"kernel_shape", Dims{2, 2}}});
  add("i8", {.dtype = DType::i8, .shape = {1, 2, 4, 4}, .low = -128, .high = 128, .numbers = {}},
      {{"kernel_shape", Dims{2, 2}}});
  add("u8", {.dtype = DType::u8, .shape = {1, 2, 4, 4}, .low = 0, .high = 256, .numbers = {}},
      {{"kernel_shape", Dims{2, 2}}});
  add("NaN wins", of_numbers({1, 1, 4}, {3, kNaN, 5, 1}, DType::f64), {{"kernel_shape", Dims{2}}});
  add("a window in the pads", of_numbers({1, 1, 1}, {7}, DType::f64),
      {{"kernel_shape", Dims{2}}, {"dilations", Dims{2}}, {"pads", Dims{1, 1}}});
}

void add_average_pool(SampleList& list) {
  const auto add = [&](std::string name, Operand x, Attributes attributes) {
    attributes.set("count_include_pad", int64_t{1});
    list.push_back({.name = std::move(name),
                    .op = OpKind::AveragePool,
                    .inputs = {std::move(x)},
                    .attributes = std::move(attributes)});
  };
  add("count_include_pad", of({1, 2, 5, 6}),
      {{"kernel_shape", Dims{3, 3}}, {"pads", Dims{1, 1, 1, 1}}, {"strides", Dims{2, 2}}});
  add("count_include_pad and ceil_mode", of({1, 1, 4, 6}),
      {{"kernel_shape", Dims{3, 3}}, {"pads", Dims{1, 0, 1, 1}}, {"strides", Dims{2, 2}}, {"ceil_mode", int64_t{1}}});
  add("count_include_pad and dilations", of({1, 1, 5, 5}),
      {{"kernel_shape", Dims{2, 2}}, {"pads", Dims{1, 1, 1, 1}}, {"dilations", Dims{2, 3}}});
}

void add_pool_gradients(SampleList& list) {
  const Attributes halves = {{"kernel_shape", Dims{2, 2}}, {"strides", Dims{2, 2}}};
  const Attributes overlapping = {{"kernel_shape", Dims{2}}};
  const auto add_max = [&](std::string name, Operand dy, Operand x, Operand y, Attributes attributes) {
    list.push_back({.name = std::move(name),
                    .op = OpKind::MaxPoolGrad,
                    .inputs = {dy, x, y},
                    .attributes = std::move(attributes)});
  };
  // y is the pool of x: a kernel may find the largest element by comparing with it.
  add_max("plain", of({1, 1, 2, 2}), of_numbers({1, 1, 4, 4}, {1, 5, 2, 0, 3, 4, 7, 6, 9, 8, 1, 2, 3, 4, 6, 5}),
          of_numbers({1, 1, 2, 2}, {5, 7, 9, 6}), halves);
  add_max("one element wins two windows", of({1, 1, 3}), of_numbers({1, 1, 4}, {1, 9, 2, 3}),
          of_numbers({1, 1, 3}, {9, 9, 3}), overlapping);
  add_max("the first of equals", of({1, 1, 2, 2}), of_numbers({1, 1, 4, 4}, Numbers(16, 1.0)),
          of_numbers({1, 1, 2, 2}, Numbers(4, 1.0)), halves);
  add_max("f64", of({1, 1, 3}, DType::f64), of_numbers({1, 1, 4}, {4, 3, 2, 5}, DType::f64),
          of_numbers({1, 1, 3}, {4, 3, 5}, DType::f64), overlapping);
  add_max("an empty batch", of({0, 1, 3}), of({0, 1, 4}), of({0, 1, 3}), overlapping);
  Attributes last = halves;
  last.set("channels_last", int64_t{1});
  add_max("channels last", of({1, 2, 2, 2}),
          of_numbers({1, 4, 4, 2}, {16, 38, 35, 9,  24, 39, 31, 41, 58, 5,  54, 1,  53, 17, 36, 15,
                                    13, 47, 57, 45, 42, 26, 10, 44, 37, 34, 25, 48, 22, 33, 3,  6}),
          of_numbers({1, 2, 2, 2}, {58, 38, 53, 41, 57, 48, 42, 44}), last);

  const auto add_average = [&](std::string name, Operand dy, Shape x, Attributes attributes) {
    attributes.set("shape", x.to_vector());
    list.push_back({.name = std::move(name),
                    .op = OpKind::AveragePoolGrad,
                    .inputs = {std::move(dy)},
                    .attributes = std::move(attributes)});
  };
  add_average("plain", of({2, 3, 2, 2}), {2, 3, 4, 4}, halves);
  add_average("overlapping windows", of({1, 2, 5}), {1, 2, 6}, overlapping);
  add_average("pads", of({1, 1, 3, 3}), {1, 1, 5, 5},
              {{"kernel_shape", Dims{3, 3}}, {"pads", Dims{1, 1, 1, 1}}, {"strides", Dims{2, 2}}});
  add_average("count_include_pad", of({1, 1, 3, 3}), {1, 1, 5, 5},
              {{"kernel_shape", Dims{3, 3}},
               {"pads", Dims{1, 1, 1, 1}},
               {"strides", Dims{2, 2}},
               {"count_include_pad", int64_t{1}}});
  add_average("f64", of({1, 2, 5}, DType::f64), {1, 2, 6}, overlapping);
  add_average("an empty batch", of({0, 2, 5}), {0, 2, 6}, overlapping);
  add_average("channels last", of({2, 3, 2, 3}), {2, 5, 4, 3},
              {{"kernel_shape", Dims{3, 2}},
               {"pads", Dims{1, 0, 1, 0}},
               {"strides", Dims{2, 2}},
               {"channels_last", int64_t{1}}});
}

void add_resize(SampleList& list) {
  const auto add = [&](std::string name, Operand x, Attributes attributes) {
    list.push_back(
        {.name = std::move(name), .op = OpKind::Resize, .inputs = {std::move(x)}, .attributes = std::move(attributes)});
  };
  const Text linear = "linear";
  add("nearest twice as large", of({1, 2, 3, 3}), {{"scales", Numbers{1, 1, 2, 2}}});
  add("nearest smaller", of({1, 1, 5, 7}), {{"sizes", Dims{1, 1, 3, 4}}});
  for (const char* mode : {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"}) {
    add(Text("nearest ") + mode, of({1, 1, 4, 5}),
        {{"sizes", Dims{1, 1, 7, 3}},
         {"nearest_mode", Text(mode)},
         {"coordinate_transformation_mode", Text("asymmetric")}});
  }
  for (const char* mode : {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"}) {
    add(Text("linear ") + mode, of({1, 2, 4, 5}),
        {{"mode", linear}, {"scales", Numbers{1, 1, 1.6, 0.7}}, {"coordinate_transformation_mode", Text(mode)}});
    add(Text("linear to one ") + mode, of({1, 1, 4}),
        {{"mode", linear}, {"sizes", Dims{1, 1, 1}}, {"coordinate_transformation_mode", Text(mode)}});
  }
  add("linear crop", of({1, 1, 4, 4}),
      {{"mode", linear},
       {"sizes", Dims{1, 1, 3, 5}},
       {"roi", Numbers{0, 0, 0.4, 0.6, 1, 1, 0.8, 1.3}},
       {"coordinate_transformation_mode", Text("tf_crop_and_resize")},
       {"extrapolation_value", 10.0}});
  add("linear in three dimensions", of({1, 1, 2, 3, 2}), {{"mode", linear}, {"scales", Numbers{1, 1, 2, 1.5, 2}}});
  add("axes", of({1, 1, 3, 4}), {{"mode", linear}, {"axes", Dims{-1, 2}}, {"scales", Numbers{2, 1.5}}});
  add("not_larger", of({1, 1, 3, 4}),
      {{"axes", Dims{2, 3}}, {"sizes", Dims{7, 8}}, {"keep_aspect_ratio_policy", Text("not_larger")}});
  add("not_smaller", of({1, 1, 3, 4}),
      {{"axes", Dims{2, 3}}, {"sizes", Dims{7, 8}}, {"keep_aspect_ratio_policy", Text("not_smaller")}});
  add("an empty batch", of({0, 1, 3, 3}), {{"mode", linear}, {"scales", Numbers{1, 1, 2, 2}}});
  add("f64", of({1, 1, 3, 3}, DType::f64), {{"mode", linear}, {"scales", Numbers{1, 1, 2, 2}}});
  add("f16", of({1, 1, 3, 3}, DType::f16), {{"mode", linear}, {"scales", Numbers{1, 1, 2, 2}}});
  add("i64", of({1, 1, 3, 3}, DType::i64), {{"scales", Numbers{1, 1, 2, 2}}});
  add("u8", {.dtype = DType::u8, .shape = {1, 1, 3, 3}, .low = 0, .high = 256, .numbers = {}},
      {{"scales", Numbers{1, 1, 2, 2}}});

  const auto add_gradient = [&](std::string name, Operand dy, Shape x, Attributes attributes) {
    attributes.set("shape", x.to_vector());
    list.push_back({.name = std::move(name),
                    .op = OpKind::ResizeGrad,
                    .inputs = {std::move(dy)},
                    .attributes = std::move(attributes)});
  };
  add_gradient("nearest", of({1, 2, 6, 6}), {1, 2, 3, 3}, {{"scales", Numbers{1, 1, 2, 2}}});
  add_gradient("nearest smaller", of({1, 1, 2, 3}), {1, 1, 5, 4}, {{"sizes", Dims{1, 1, 2, 3}}});
  add_gradient("linear", of({1, 1, 6, 3}), {1, 1, 4, 5}, {{"mode", linear}, {"sizes", Dims{1, 1, 6, 3}}});
  add_gradient("an empty batch", of({0, 1, 6}), {0, 1, 3}, {{"scales", Numbers{1, 1, 2}}});
  add_gradient("f64", of({1, 1, 6}, DType::f64), {1, 1, 3}, {{"mode", linear}, {"scales", Numbers{1, 1, 2}}});
}

}  // namespace

SampleList pooling_samples() {
  SampleList list;
  add_pools(list);
  add_max_pool(list);
  add_average_pool(list);
  add_pool_gradients(list);
  add_resize(list);
  return list;
}

}  // namespace mpc::samples
