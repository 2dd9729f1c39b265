#include "tests/ops/sample.h"

// Samples of the operators that move bytes: Reshape to Trilu, Slice and Pad with their gradients. They compute nothing,
// so their tolerance is 0; PadGrad adds at most a few elements (1e-6 is several f32 roundings).

namespace mpc::samples {
namespace {

using Dims = std::vector<int64_t>;

Operand of(Shape shape, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .numbers = {}};
}
Operand whole(Shape shape, DType dtype) {
  return {.dtype = dtype, .shape = shape, .low = 0, .high = 100, .numbers = {}};
}

/// A sample with one output of an op that moves bytes: a backend must give the same bits.
Sample exact(std::string name, OpKind op, std::vector<std::optional<Operand>> inputs, Attributes attributes) {
  return {.name = std::move(name),
          .op = op,
          .inputs = std::move(inputs),
          .attributes = std::move(attributes),
          .tolerance = 0};
}

void add_reshape(SampleList& list) {
  const auto add = [&](std::string name, Operand x, Attributes attributes) {
    list.push_back(exact(std::move(name), OpKind::Reshape, {x}, std::move(attributes)));
  };
  add("plain", of({2, 6}), {{"shape", Dims{3, 4}}});
  add("copied and inferred dimensions", of({2, 3, 4}), {{"shape", Dims{0, -1}}});
  add("to a scalar", of({1, 1}), {{"shape", Dims{}}});
  add("from a scalar", of({}), {{"shape", Dims{1, 1}}});
  add("allowzero", of({0, 3, 4}), {{"shape", Dims{3, 4, 0}}, {"allowzero", int64_t{1}}});
  add("inferred zero", of({0, 3}), {{"shape", Dims{3, -1}}});
  add("f64", of({4, 2}, DType::f64), {{"shape", Dims{8}}});
  add("f16", of({4, 2}, DType::f16), {{"shape", Dims{2, 4}}});
  add("i64", whole({4, 2}, DType::i64), {{"shape", Dims{2, 2, 2}}});
}

void add_transpose(SampleList& list) {
  const auto add = [&](std::string name, Operand x, Attributes attributes) {
    list.push_back(exact(std::move(name), OpKind::Transpose, {x}, std::move(attributes)));
  };
  add("reversed by default", of({2, 3, 5}), {});
  add("matrix", of({33, 17}), {{"perm", Dims{1, 0}}});
  add("heads", of({2, 3, 4, 5}), {{"perm", Dims{0, 2, 1, 3}}});
  add("rotation", of({2, 3, 4}), {{"perm", Dims{2, 0, 1}}});
  add("rank 8", of({1, 2, 1, 3, 2, 1, 2, 2}), {{"perm", Dims{7, 1, 6, 0, 5, 2, 4, 3}}});
  add("scalar", of({}), {});
  add("zero dimension", of({3, 0, 2}), {{"perm", Dims{1, 2, 0}}});
  add("bf16", of({3, 4}, DType::bf16), {});
  add("u8", whole({3, 4}, DType::u8), {});
  add("bool", {.dtype = DType::boolean, .shape = {3, 4}, .low = 0, .high = 2, .numbers = {}}, {});
}

void add_concat(SampleList& list) {
  const auto add = [&](std::string name, std::vector<std::optional<Operand>> inputs, int64_t axis) {
    list.push_back(exact(std::move(name), OpKind::Concat, std::move(inputs), {{"axis", axis}}));
  };
  add("first axis", {of({2, 3}), of({1, 3})}, 0);
  add("last axis, counted from the end", {of({2, 3}), of({2, 1}), of({2, 4})}, -1);
  add("channels", {of({2, 3, 4, 4}), of({2, 5, 4, 4})}, 1);
  add("one operand", {of({2, 3})}, 1);
  add("an empty operand", {of({2, 0}), of({2, 3})}, 1);
  add("f64", {of({2, 3}, DType::f64), of({2, 3}, DType::f64)}, 1);
  add("i64", {whole({3}, DType::i64), whole({2}, DType::i64)}, 0);
}

void add_split(SampleList& list) {
  const auto add = [&](std::string name, Operand x, size_t outputs, Attributes attributes) {
    list.push_back(exact(std::move(name), OpKind::Split, {x}, std::move(attributes)));
    list.back().outputs.assign(outputs, true);
  };
  add("given parts", of({2, 6}), 3, {{"axis", int64_t{1}}, {"split", Dims{1, 3, 2}}});
  add("equal parts", of({6, 2}), 3, {});
  add("a smaller last part", of({2, 7}), 4, {{"axis", int64_t{-1}}, {"num_outputs", int64_t{4}}});
  add("middle axis", of({2, 4, 3}), 2, {{"axis", int64_t{1}}, {"split", Dims{3, 1}}});
  add("one part", of({3, 2}), 1, {{"split", Dims{3}}});
  const auto add_many = [&](std::string name, std::vector<std::optional<Operand>> inputs, Dims parts, Dims split) {
    const size_t outputs = split.size();
    list.push_back(exact(std::move(name), OpKind::Split, std::move(inputs),
                         {{"axis", int64_t{-1}}, {"parts", std::move(parts)}, {"split", std::move(split)}}));
    list.back().outputs.assign(outputs, true);
    list.back().check_gradient = false;  // is made after gradients are (passes/batch_splits)
  };
  add_many("of several", {of({2, 6}), of({70, 200}), of({3, 2})}, {3, 2, 1}, {1, 3, 2, 90, 110, 2});
  add_many("of several rows", {of({6}), of({5000}), of({0})}, {2, 2, 1}, {6, 0, 4999, 1, 0});
  add("an empty part", of({3, 2}), 2, {{"split", Dims{0, 3}}});
  add("f16", of({4}, DType::f16), 2, {});
  add("i64", whole({4, 2}, DType::i64), 2, {{"split", Dims{1, 3}}});
  add("an output that is not wanted", of({6, 2}), 3, {{"split", Dims{1, 2, 3}}});
  list.back().outputs[1] = false;
}

void add_expand(SampleList& list) {
  const auto add = [&](std::string name, Operand x, Dims shape) {
    list.push_back(exact(std::move(name), OpKind::Expand, {x}, {{"shape", std::move(shape)}}));
  };
  add("stretched axis", of({3, 1}), {3, 4});
  add("added axes", of({3}), {2, 2, 3});
  add("both directions", of({1, 3, 1}), {2, 1, 4});
  add("shorter shape", of({2, 3, 1}), {4});
  add("scalar", of({}), {2, 3});
  add("to nothing", of({1, 3}), {0, 3});
  add("f64", of({2, 1}, DType::f64), {2, 3});
  add("i64", whole({2, 1}, DType::i64), {2, 3});
}

void add_tile(SampleList& list) {
  const auto add = [&](std::string name, Operand x, Dims repeats) {
    list.push_back(exact(std::move(name), OpKind::Tile, {x}, {{"repeats", std::move(repeats)}}));
  };
  add("one axis", of({2, 3}), {1, 2});
  add("all axes", of({2, 1, 3}), {3, 2, 2});
  add("rank 8", of({1, 2, 1, 2, 1, 1, 2, 1}), {2, 1, 2, 1, 2, 1, 2, 1});
  add("no repeats", of({2, 3}), {1, 1});
  add("zero repeats", of({2, 3}), {0, 2});
  add("scalar", of({}), {});
  add("bf16", of({3}, DType::bf16), {3});
  add("i64", whole({2, 2}, DType::i64), {2, 2});
}

/// Slices with the shape they are taken from; SliceGrad has the same with the shape of the result.
struct SliceCase {
  std::string name;
  Shape from;
  Shape to;
  Attributes attributes;
};

std::vector<SliceCase> slice_cases() {
  constexpr int64_t kMax = INT64_MAX;
  constexpr int64_t kMin = INT64_MIN;
  return {
      {"two axes", {4, 5}, {2, 3}, {{"starts", Dims{1, 2}}, {"ends", Dims{3, 5}}}},
      {"an axis from the end", {2, 3, 7}, {2, 3, 2}, {{"starts", Dims{-3}}, {"ends", Dims{-1}}, {"axes", Dims{-1}}}},
      {"axes out of order", {4, 5}, {2, 5}, {{"starts", Dims{0, 2}}, {"ends", Dims{kMax, kMax}}, {"axes", Dims{1, 0}}}},
      {"steps", {3, 10}, {3, 3}, {{"starts", Dims{1}}, {"ends", Dims{kMax}}, {"axes", Dims{1}}, {"steps", Dims{3}}}},
      {"reversed",
       {5, 2},
       {5, 2},
       {{"starts", Dims{-1}}, {"ends", Dims{kMin}}, {"axes", Dims{0}}, {"steps", Dims{-1}}}},
      {"backwards by two", {9}, {3}, {{"starts", Dims{7}}, {"ends", Dims{1}}, {"axes", Dims{0}}, {"steps", Dims{-2}}}},
      {"the longest steps",
       {4, 4},
       {1, 1},
       {{"starts", Dims{1, 3}}, {"ends", Dims{kMax, kMin}}, {"axes", Dims{0, 1}}, {"steps", Dims{kMax, kMin}}}},
      {"empty result", {4, 2}, {0, 2}, {{"starts", Dims{3}}, {"ends", Dims{1}}}},
      {"empty operand",
       {0, 2},
       {0, 2},
       {{"starts", Dims{0}}, {"ends", Dims{5}}, {"axes", Dims{0}}, {"steps", Dims{-1}}}},
      {"nothing sliced", {2, 2}, {2, 2}, {{"starts", Dims{}}, {"ends", Dims{}}}},
  };
}

void add_slice(SampleList& list) {
  for (const SliceCase& c : slice_cases()) {
    list.push_back(exact(c.name, OpKind::Slice, {of(c.from)}, c.attributes));
    Attributes attributes = c.attributes;
    attributes.set("shape", c.from.to_vector());
    list.push_back(exact(c.name, OpKind::SliceGrad, {of(c.to)}, attributes));
  }
  const Attributes rows = {{"starts", Dims{1}}, {"ends", Dims{3}}};
  list.push_back(exact("f64", OpKind::Slice, {of({4, 2}, DType::f64)}, rows));
  list.push_back(exact("f16", OpKind::Slice, {of({4, 2}, DType::f16)}, rows));
  list.push_back(exact("i64", OpKind::Slice, {whole({4, 2}, DType::i64)}, rows));
}

/// Pads with the shape they are applied to; PadGrad has the same with the shape of the result.
struct PadCase {
  std::string name;
  Shape from;
  Shape to;
  Attributes attributes;
};

std::vector<PadCase> pad_cases() {
  const std::string reflect = "reflect";
  const std::string edge = "edge";
  const std::string wrap = "wrap";
  return {
      {"constant", {2, 3}, {5, 6}, {{"pads", Dims{1, 0, 2, 3}}}},
      {"image", {1, 2, 3, 3}, {1, 2, 5, 6}, {{"pads", Dims{0, 0, 1, 2, 0, 0, 1, 1}}}},
      {"some axes", {2, 3, 2}, {2, 7, 2}, {{"pads", Dims{1, 3}}, {"axes", Dims{-2}}}},
      {"cropped", {5, 4}, {4, 3}, {{"pads", Dims{-1, 2, 0, -3}}}},
      {"reflected", {3, 4}, {7, 8}, {{"mode", reflect}, {"pads", Dims{2, 3, 2, 1}}}},
      {"reflected more than once", {3}, {14}, {{"mode", reflect}, {"pads", Dims{5, 6}}}},
      {"reflected single", {1, 2}, {4, 2}, {{"mode", reflect}, {"pads", Dims{1, 0, 2, 0}}}},
      {"edges", {3, 2}, {6, 5}, {{"mode", edge}, {"pads", Dims{2, 1, 1, 2}}}},
      {"wrapped", {3, 2}, {9, 4}, {{"mode", wrap}, {"pads", Dims{2, 1, 4, 1}}}},
      {"cropped, then wrapped", {5}, {6}, {{"mode", wrap}, {"pads", Dims{-2, 3}}}},
      {"nothing to everything", {0, 2}, {2, 2}, {{"pads", Dims{1, 0, 1, 0}}}},
      {"to nothing", {2, 2}, {0, 2}, {{"pads", Dims{-1, 0, -1, 0}}}},
      {"scalar", {}, {}, {{"pads", Dims{}}}},
  };
}

void add_pad(SampleList& list) {
  for (const PadCase& c : pad_cases()) {
    list.push_back(exact(c.name, OpKind::Pad, {of(c.from)}, c.attributes));
    Attributes attributes = c.attributes;
    attributes.set("shape", c.from.to_vector());
    list.push_back(
        {.name = c.name, .op = OpKind::PadGrad, .inputs = {of(c.to)}, .attributes = attributes, .tolerance = 1e-6});
  }
  const auto add = [&](std::string name, Operand x, double value) {
    list.push_back(exact(std::move(name), OpKind::Pad, {x}, {{"pads", Dims{1, 1, 1, 1}}, {"value", value}}));
  };
  add("a value", of({2, 2}), 2.5);
  add("f64", of({2, 2}, DType::f64), 0.1);
  add("bf16", of({2, 2}, DType::bf16), -1);
  add("i64", whole({2, 2}, DType::i64), -7);
}

void add_trilu(SampleList& list) {
  const auto add = [&](std::string name, Operand x, Attributes attributes) {
    list.push_back(exact(std::move(name), OpKind::Trilu, {x}, std::move(attributes)));
  };
  const Attribute lower = int64_t{0};
  add("upper", of({4, 5}), {});
  add("lower", of({4, 5}), {{"upper", lower}});
  add("upper above the diagonal", of({4, 5}), {{"k", int64_t{2}}});
  add("upper below the diagonal", of({5, 3}), {{"k", int64_t{-1}}});
  add("lower above the diagonal", of({2, 3, 4}), {{"upper", lower}, {"k", int64_t{1}}});
  add("far outside", of({3, 3}), {{"k", INT64_MAX}});
  add("lower, far outside", of({3, 3}), {{"upper", lower}, {"k", INT64_MIN}});
  add("zero dimension", of({3, 0, 4}), {});
  add("f64", of({3, 3}, DType::f64), {});
  add("i64", whole({3, 3}, DType::i64), {{"upper", lower}});
  add("bool", {.dtype = DType::boolean, .shape = {3, 3}, .low = 0, .high = 2, .numbers = {}}, {});
}

}  // namespace

SampleList shape_samples() {
  SampleList list;
  add_reshape(list);
  add_transpose(list);
  add_concat(list);
  add_split(list);
  add_expand(list);
  add_tile(list);
  add_slice(list);
  add_pad(list);
  add_trilu(list);
  return list;
}

}  // namespace mpc::samples
