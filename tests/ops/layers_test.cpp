// Products, windows, normalizations, losses, LSTM and GRU: results that are known by hand, and what is refused.
// Conformance compares kernels with themselves and with their gradients, not with ONNX's definition.

#include <cmath>

#include <doctest/doctest.h>

#include "compiler/base/error.h"
#include "compiler/ops/builder.h"
#include "compiler/ops/gradient.h"
#include "tests/support/interpreter.h"

namespace mpc::test {
namespace {

using Dims = std::vector<int64_t>;
using Numbers = std::vector<double>;
using Text = std::string;

constexpr int64_t kHuge = int64_t{1} << 62;

Literal tensor(Shape shape, Numbers numbers, DType dtype = DType::f64) {
  return literal_of(dtype, shape, numbers);
}

/// 1, 2, 3...
Literal counting(Shape shape, DType dtype = DType::f64) {
  Numbers numbers(static_cast<size_t>(shape.elements()));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<double>(i + 1);
  return literal_of(dtype, shape, numbers);
}

Tensors eval_all(OpKind op, const Tensors& inputs, Attributes attributes = {}, int outputs = 1) {
  const Types types = infer_types(op, Text(op_name(op)), attributes, types_of(inputs), outputs);
  return run_reference(op, attributes, inputs, types);
}

Literal eval(OpKind op, const Tensors& inputs, Attributes attributes = {}) {
  return *eval_all(op, inputs, std::move(attributes))[0];
}

/// The id of the error that inference or the kernel ends with, or nothing.
std::optional<ErrorId> error_of(OpKind op, const Tensors& inputs, const Attributes& attributes = {}, int outputs = 1) {
  try {
    eval_all(op, inputs, attributes, outputs);
  } catch (const Error& error) {
    return error.id();
  }
  return std::nullopt;
}

std::optional<ErrorId> infer_error(OpKind op, const std::vector<Shape>& shapes, Attributes attributes = {}) {
  Types types;
  for (const Shape& shape : shapes) types.push_back(TensorType{DType::f32, shape});
  try {
    infer_types(op, Text(op_name(op)), attributes, types, 1);
  } catch (const Error& error) {
    return error.id();
  }
  return std::nullopt;
}

/// Within 1e-12, a few thousand roundings of f64.
bool is_near(const Literal& literal, const Numbers& expected) {
  const Numbers found = numbers_of(literal);
  if (found.size() != expected.size()) return false;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!(std::fabs(found[i] - expected[i]) <= 1e-12 * std::max(1.0, std::fabs(expected[i])))) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("MatMul: vectors are rows on the left and columns on the right") {
  const Literal v = tensor({2}, {1, 2});
  const Literal m = tensor({2, 2}, {1, 2, 3, 4});
  CHECK(is_near(eval(OpKind::MatMul, {v, v}), {5}));
  CHECK(is_near(eval(OpKind::MatMul, {v, m}), {7, 10}));
  CHECK(is_near(eval(OpKind::MatMul, {m, v}), {5, 11}));
  CHECK(eval(OpKind::MatMul, {v, v}).shape() == Shape{});
}

TEST_CASE("MatMul: operands that do not fit are refused") {
  CHECK(infer_error(OpKind::MatMul, {{2, 3}, {4, 5}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::MatMul, {{2, 3, 4}, {3, 4, 5}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::MatMul, {{}, {4}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::MatMul, {{int64_t{1} << 40, 1}, {1, int64_t{1} << 40}}) == ErrorId::M051);
  const Literal bytes = counting({2, 2}, DType::i8);
  CHECK(error_of(OpKind::MatMul, {bytes, bytes}) == ErrorId::M030);
}

TEST_CASE("Gemm: alpha times the product plus beta times C") {
  const Literal a = tensor({2, 1}, {1, 2});
  const Literal b = tensor({2, 3}, {1, 2, 3, 4, 5, 6});
  // A^T B = 1*(1 2 3) + 2*(4 5 6) = (9 12 15); half of it, minus twice C = (1 1 1).
  const Attributes attributes = {{"transA", int64_t{1}}, {"alpha", 0.5}, {"beta", -2.0}};
  CHECK(is_near(eval(OpKind::Gemm, {a, b, tensor({1}, {1})}, attributes), {2.5, 4, 5.5}));
}

TEST_CASE("Gemm: the gradient of Gelu takes what Gelu was taken of, and nothing that is added") {
  const Attributes gradient = {{"activation", std::string("GeluGrad")}};
  const Literal a = counting({2, 1}, DType::f32);
  const Literal b = counting({1, 3}, DType::f32);
  const Literal c = counting({3}, DType::f32);
  CHECK(error_of(OpKind::Gemm, {a, b}, gradient) == ErrorId::M022);
  CHECK(error_of(OpKind::Gemm, {a, b, c, counting({2, 3}, DType::f32)}, gradient) == ErrorId::M022);
  CHECK(error_of(OpKind::Gemm, {a, b}, {{"activation", std::string("Tanh")}}) == ErrorId::M031);
}

TEST_CASE("Gemm: a weight for another number of features is refused with both numbers") {
  Attributes attributes = {{"transB", int64_t{1}}};
  const Types types = {TensorType{DType::f32, {64, 16384}}, TensorType{DType::f32, {10, 4096}}};
  try {
    infer_types(OpKind::Gemm, "fc (Gemm)", attributes, types, 1);
    FAIL("not refused");
  } catch (const Error& error) {
    CHECK(error.id() == ErrorId::M032);
    CHECK(Text(error.what()).find("16384") != Text::npos);
    CHECK(Text(error.what()).find("4096") != Text::npos);
  }
  CHECK(infer_error(OpKind::Gemm, {{2, 3}, {3, 4}, {3, 4}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::Gemm, {{2, 3, 1}, {3, 4}}) == ErrorId::M032);
  const Literal whole = counting({2, 2}, DType::i32);
  CHECK(error_of(OpKind::Gemm, {whole, whole}, {{"alpha", 0.5}}) == ErrorId::M046);
}

TEST_CASE("Gemm: attributes with a NaN infer to themselves") {
  Attributes attributes = {{"alpha", std::nan("")}};
  const Types types = {TensorType{DType::f32, {2, 3}}, TensorType{DType::f32, {3, 2}}};
  infer_types(OpKind::Gemm, "node", attributes, types, 1);
  Attributes again = attributes;
  infer_types(OpKind::Gemm, "node", again, types, 1);
  CHECK((again == attributes));
  again.set("alpha", 1.0);
  CHECK_FALSE((again == attributes));
}

TEST_CASE("Conv: the odd pad stands at the end for SAME_UPPER and at the beginning for SAME_LOWER") {
  const Literal x = counting({1, 1, 4});
  const Literal w = tensor({1, 1, 2}, {1, 10});
  CHECK(is_near(eval(OpKind::Conv, {x, w}, {{"auto_pad", Text("SAME_UPPER")}}), {21, 32, 43, 4}));
  CHECK(is_near(eval(OpKind::Conv, {x, w}, {{"auto_pad", Text("SAME_LOWER")}}), {10, 21, 32, 43}));
  CHECK(is_near(eval(OpKind::Conv, {x, w}, {{"auto_pad", Text("VALID")}}), {21, 32, 43}));
}

TEST_CASE("Conv: each group of maps sees its own channels") {
  const Literal x = tensor({1, 2, 2}, {1, 2, 3, 4});
  const Literal w = tensor({2, 1, 1}, {10, 100});
  CHECK(is_near(eval(OpKind::Conv, {x, w, tensor({2}, {1, 2})}, {{"group", int64_t{2}}}), {11, 21, 302, 402}));
}

TEST_CASE("Conv: inconsistent operands and hostile attributes are refused") {
  const std::vector<Shape> good = {{1, 4, 5, 5}, {2, 4, 3, 3}};
  CHECK(infer_error(OpKind::Conv, good) == std::nullopt);
  CHECK(infer_error(OpKind::Conv, {{1, 3, 5, 5}, {2, 4, 3, 3}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::Conv, {{1, 4, 5, 5}, {2, 4, 3}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::Conv, {{1, 4}, {2, 4}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::Conv, {{1, 4, 2, 2}, {2, 4, 3, 3}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::Conv, {{1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1}}) == ErrorId::M046);
  CHECK(infer_error(OpKind::Conv, {{1, 4, 5, 5}, {2, 4, 3, 3}, {3}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::Conv, {{1, 4, 5, 5}, {2, 4, 0, 3}}) == ErrorId::M031);
  const auto with = [&](const char* name, Attribute value) {
    return infer_error(OpKind::Conv, good, {{name, std::move(value)}});
  };
  CHECK(with("group", int64_t{0}) == ErrorId::M031);
  CHECK(with("group", int64_t{3}) == ErrorId::M032);
  CHECK(with("group", kHuge) == ErrorId::M032);
  CHECK(with("strides", Dims{0, 1}) == ErrorId::M031);
  CHECK(with("strides", Dims{1}) == ErrorId::M031);
  CHECK(with("dilations", Dims{kHuge, 1}) == ErrorId::M031);
  CHECK(with("dilations", Dims{int64_t{1} << 48, 1}) == ErrorId::M031);
  CHECK(with("pads", Dims{-1, 0, 0, 0}) == ErrorId::M031);
  CHECK(with("pads", Dims{int64_t{1} << 46, 0, 0, 0}) == ErrorId::M051);
  CHECK(with("kernel_shape", Dims{2, 2}) == ErrorId::M031);
  CHECK(with("auto_pad", Text("SAME")) == ErrorId::M031);
}

TEST_CASE("AveragePool: count_include_pad counts the pads, but not what ceil_mode adds") {
  const Literal x = counting({1, 1, 5});
  Attributes attributes = {
      {"kernel_shape", Dims{3}}, {"strides", Dims{2}}, {"pads", Dims{1, 0}}, {"ceil_mode", int64_t{1}}};
  // Windows (pad 1 2), (2 3 4), (4 5 beyond) begin at -1, 1 and 3.
  CHECK(is_near(eval(OpKind::AveragePool, {x}, attributes), {1.5, 3, 4.5}));
  attributes.set("count_include_pad", int64_t{1});
  CHECK(is_near(eval(OpKind::AveragePool, {x}, attributes), {1, 3, 4.5}));
}

TEST_CASE("MaxPool: Indices count through all of x, in the order that storage_order says") {
  const Literal x = tensor({1, 2, 2, 2}, {1, 9, 3, 4, 5, 6, 8, 7});
  const Attributes window = {{"kernel_shape", Dims{2, 2}}};
  const Tensors rows = eval_all(OpKind::MaxPool, {x}, window, 2);
  CHECK(is_near(*rows[0], {9, 8}));
  CHECK(rows[1]->to_integers() == Dims{1, 6});
  Attributes columns = window;
  columns.set("storage_order", int64_t{1});
  CHECK(eval_all(OpKind::MaxPool, {x}, columns, 2)[1]->to_integers() == Dims{2, 5});
}

TEST_CASE("Pools: hostile windows are refused") {
  const std::vector<Shape> x = {{1, 1, 4, 4}};
  CHECK(infer_error(OpKind::MaxPool, x) == ErrorId::M031);
  CHECK(infer_error(OpKind::MaxPool, x, {{"kernel_shape", Dims{2}}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::MaxPool, x, {{"kernel_shape", Dims{0, 2}}}) == ErrorId::M031);
  CHECK(infer_error(OpKind::MaxPool, x, {{"kernel_shape", Dims{kHuge, 2}}}) == ErrorId::M031);
  CHECK(infer_error(OpKind::MaxPool, x, {{"kernel_shape", Dims{5, 2}}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::AveragePool, x, {{"kernel_shape", Dims{2, 2}}, {"strides", Dims{-1, 1}}}) == ErrorId::M031);
  CHECK(infer_error(OpKind::AveragePool, {{4}}, {{"kernel_shape", Dims{2}}}) == ErrorId::M032);
}

TEST_CASE("Resize: nearest and linear take the neighbours that ONNX states") {
  const Literal x = counting({1, 1, 2});
  CHECK(is_near(eval(OpKind::Resize, {x}, {{"scales", Numbers{1, 1, 2}}}), {1, 1, 2, 2}));
  CHECK(
      is_near(eval(OpKind::Resize, {x}, {{"scales", Numbers{1, 1, 2}}, {"mode", Text("linear")}}), {1, 1.25, 1.75, 2}));
}

TEST_CASE("Resize: what is not supported or out of range is refused") {
  const std::vector<Shape> x = {{1, 1, 4}};
  const auto with = [&](Attributes attributes) { return infer_error(OpKind::Resize, x, std::move(attributes)); };
  CHECK(with({}) == ErrorId::M031);
  CHECK(with({{"scales", Numbers{1, 1, 2}}, {"mode", Text("cubic")}}) == ErrorId::M046);
  CHECK(with({{"scales", Numbers{1, 1, 2}}, {"antialias", int64_t{1}}}) == ErrorId::M046);
  CHECK(with({{"scales", Numbers{1, 2}}}) == ErrorId::M031);
  CHECK(with({{"scales", Numbers{1, 1, -2}}}) == ErrorId::M033);
  CHECK(with({{"scales", Numbers{1, 1, std::nan("")}}}) == ErrorId::M033);
  CHECK(with({{"scales", Numbers{1, 1, 1e30}}}) == ErrorId::M033);
  CHECK(with({{"sizes", Dims{1, 1, -1}}}) == ErrorId::M033);
  CHECK(with({{"sizes", Dims{1, 1, int64_t{1} << 46}}}) == ErrorId::M051);
  CHECK(with({{"scales", Numbers{2, 2}}, {"axes", Dims{2, -1}}}) == ErrorId::M031);
  CHECK(with({{"scales", Numbers{1, 1, 2}}, {"mode", Text("bilinear")}}) == ErrorId::M031);
}

TEST_CASE(
    "BatchNormalizationTraining: running statistics move by one minus momentum, the variance is the population's") {
  // One channel with 1, 3: mean 2, variance 1.
  const Tensors inputs = {tensor({2, 1}, {1, 3}), tensor({1}, {2}), tensor({1}, {10}), tensor({1}, {4}),
                          tensor({1}, {3})};
  const Tensors results =
      eval_all(OpKind::BatchNormalizationTraining, inputs, {{"epsilon", 0.0}, {"momentum", 0.75}}, 5);
  CHECK(is_near(*results[0], {8, 12}));
  CHECK(is_near(*results[1], {3.5}));
  CHECK(is_near(*results[2], {2.5}));
  CHECK(is_near(*results[3], {2}));
  CHECK(is_near(*results[4], {1}));
}

TEST_CASE("LayerNormalization and RMSNormalization: by hand") {
  const Literal x = tensor({1, 2}, {1, 3});
  CHECK(is_near(eval(OpKind::LayerNormalization, {x, tensor({2}, {1, 2}), tensor({2}, {0, 5})}, {{"epsilon", 0.0}}),
                {-1, 7}));
  // The mean square of 1 and 7 is 25.
  CHECK(is_near(eval(OpKind::RMSNormalization, {tensor({1, 2}, {1, 7}), tensor({2}, {5, 10})}, {{"epsilon", 0.0}}),
                {1, 14}));
}

TEST_CASE("LRN: the window of an even size reaches further up than down") {
  // Channels 1, 2, 3 with size 2: sums of squares 1 + 4, 4 + 9, 9; alpha / size = 1.
  const Attributes attributes = {{"size", int64_t{2}}, {"alpha", 2.0}, {"beta", 1.0}, {"bias", 1.0}};
  CHECK(is_near(eval(OpKind::LRN, {counting({1, 3})}, attributes), {1.0 / 6, 2.0 / 14, 3.0 / 10}));
}

TEST_CASE("Normalizations: operands and attributes that do not fit are refused") {
  CHECK(infer_error(OpKind::BatchNormalization, {{2, 3}, {3}, {3}, {3}, {4}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::BatchNormalization, {{2, 3}, {3}, {3}, {3}, {3}}, {{"training_mode", int64_t{1}}}) ==
        ErrorId::M046);
  CHECK(infer_error(OpKind::BatchNormalization, {{3}, {3}, {3}, {3}, {3}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::LayerNormalization, {{2, 3}, {4}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::LayerNormalization, {{2, 3}, {5, 2, 3}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::LayerNormalization, {{2, 3}, {3}}, {{"axis", int64_t{2}}}) == ErrorId::M031);
  CHECK(infer_error(OpKind::LayerNormalization, {{2, 3}, {3}}, {{"epsilon", -1.0}}) == ErrorId::M031);
  CHECK(infer_error(OpKind::LayerNormalization, {{2, 3}, {3}}, {{"stash_type", int64_t{7}}}) == ErrorId::M031);
  CHECK(infer_error(OpKind::LRN, {{2, 3}}, {{"size", int64_t{0}}}) == ErrorId::M031);
  CHECK(infer_error(OpKind::LRN, {{2, 3}}) == ErrorId::M031);
  CHECK(infer_error(OpKind::Softmax, {{8, 16}}, {{"axis", int64_t{3}}}) == ErrorId::M031);
}

TEST_CASE("LayerNormalization: a loss on the statistics cannot be differentiated") {
  Graph graph;
  const ValueId x = graph.add_input("x", DType::f32, {2, 3});
  const ValueId scale = graph.add_input("scale", DType::f32, {3});
  NodeInfo info;
  info.name = "norm";
  info.output_names = {"y", "mean"};
  const NodeId node = append(graph, OpKind::LayerNormalization, {x, scale}, {}, info);
  const ValueId dmean = graph.add_input("dmean", DType::f32, {2, 1});
  GradientContext context(graph, node, {ValueId{}, dmean}, {true, true});
  try {
    op_def(OpKind::LayerNormalization).gradient(context);
    FAIL("not refused");
  } catch (const Error& error) {
    CHECK(error.id() == ErrorId::M044);
  }
}

TEST_CASE("Losses: the mean divides by the weights of the items that count") {
  const double log3 = std::log(3.0);
  const Literal even = tensor({3, 3}, Numbers(9, 0.5));  // each class has probability 1/3
  const Literal labels = tensor({3}, {0, 1, 2}, DType::i64);
  const Literal weights = tensor({3}, {1, 2, 5});
  const Attributes none = {{"reduction", Text("none")}, {"ignore_index", int64_t{2}}};
  CHECK(is_near(eval(OpKind::SoftmaxCrossEntropyLoss, {even, labels, weights}, none), {log3, 2 * log3, 0}));
  CHECK(
      is_near(eval(OpKind::SoftmaxCrossEntropyLoss, {even, labels, weights}, {{"ignore_index", int64_t{2}}}), {log3}));
  CHECK(is_near(
      eval(OpKind::SoftmaxCrossEntropyLoss, {even, labels, weights}, {{"reduction", Text("sum")}, {"scale", 0.5}}),
      {4 * log3}));
  // -(1 * 1 + 2 * 5 + 5 * 9) / 8 for NegativeLogLikelihoodLoss over scores 1..9.
  CHECK(is_near(eval(OpKind::NegativeLogLikelihoodLoss, {counting({3, 3}), labels, weights}), {-7}));
}

TEST_CASE("Losses: a mean over no items is 0 and so is its gradient") {
  const Literal labels = tensor({2}, {1, 1}, DType::i64);
  const Attributes ignoring = {{"ignore_index", int64_t{1}}};
  CHECK(is_near(eval(OpKind::SoftmaxCrossEntropyLoss, {counting({2, 2}), labels}, ignoring), {0}));
  CHECK(is_near(eval(OpKind::SoftmaxCrossEntropyLossGrad, {tensor({}, {1}), counting({2, 2}), labels}, ignoring),
                {0, 0, 0, 0}));
}

TEST_CASE("Losses: labels outside the classes end the call, other misfits are refused before") {
  for (const double label : {-1.0, 3.0, 1e15}) {
    const Literal labels = tensor({1}, {label}, DType::i64);
    CHECK(error_of(OpKind::SoftmaxCrossEntropyLoss, {counting({1, 3}), labels}) == ErrorId::M033);
    CHECK(error_of(OpKind::NegativeLogLikelihoodLoss, {counting({1, 3}), labels}) == ErrorId::M033);
    CHECK(error_of(OpKind::SoftmaxCrossEntropyLossGrad, {tensor({}, {1}), counting({1, 3}), labels}) == ErrorId::M033);
    CHECK(error_of(OpKind::NegativeLogLikelihoodLossGrad, {tensor({}, {1}), counting({1, 3}), labels}) ==
          ErrorId::M033);
  }
  const Literal labels = tensor({1}, {0}, DType::i64);
  CHECK(error_of(OpKind::SoftmaxCrossEntropyLoss, {counting({2, 3}), labels}) == ErrorId::M032);
  CHECK(error_of(OpKind::SoftmaxCrossEntropyLoss, {counting({1, 3}), labels, counting({4})}) == ErrorId::M032);
  CHECK(error_of(OpKind::SoftmaxCrossEntropyLoss, {counting({1, 3}), counting({1})}) == ErrorId::M030);
  CHECK(error_of(OpKind::SoftmaxCrossEntropyLoss, {counting({1, 3}), labels}, {{"reduction", Text("max")}}) ==
        ErrorId::M031);
}

TEST_CASE("LSTM: one step by hand, gates in the order i, o, f, c") {
  // Only the bias speaks: i = 1/2, o = sigmoid(ln 3) = 3/4, f = sigmoid(-ln 3) = 1/4, g = tanh(atanh 1/2) = 1/2.
  const double log3 = std::log(3.0);
  const Literal bias = tensor({1, 8}, {0, log3, -log3, std::atanh(0.5), 0, 0, 0, 0});
  const Tensors inputs = {tensor({1, 1, 1}, {7}),
                          tensor({1, 4, 1}, Numbers(4, 0.0)),
                          tensor({1, 4, 1}, Numbers(4, 0.0)),
                          bias,
                          std::nullopt,
                          tensor({1, 1, 1}, {5}),
                          tensor({1, 1, 1}, {2})};
  const Tensors results = eval_all(OpKind::LSTM, inputs, {}, 3);
  const double cell = 0.25 * 2 + 0.5 * 0.5;
  CHECK(is_near(*results[2], {cell}));
  CHECK(is_near(*results[1], {0.75 * std::tanh(cell)}));
  CHECK(is_near(*results[0], {0.75 * std::tanh(cell)}));
}

TEST_CASE("LSTM: beyond a sequence's end Y is zero and the states stay") {
  const Literal x = counting({3, 2, 1});
  const Literal w = tensor({1, 4, 1}, {0.1, 0.2, 0.3, 0.4});
  const Literal lengths = tensor({2}, {3, 0}, DType::i32);
  const Literal state = tensor({1, 2, 1}, {0.5, 0.25});
  const Tensors results = eval_all(OpKind::LSTM, {x, w, w, std::nullopt, lengths, state, state}, {}, 3);
  const Numbers y = numbers_of(*results[0]);
  for (const size_t step : {0, 1, 2}) CHECK(y[step * 2 + 1] == 0);
  CHECK(numbers_of(*results[1])[1] == 0.25);
  CHECK(numbers_of(*results[2])[1] == 0.25);
  CHECK(numbers_of(*results[1])[0] == y[4]);
}

TEST_CASE("LSTM: what is not supported or does not fit is refused") {
  const std::vector<Shape> good = {{3, 2, 5}, {1, 16, 5}, {1, 16, 4}};
  const auto with = [&](const char* name, Attribute value) {
    return infer_error(OpKind::LSTM, good, {{name, std::move(value)}});
  };
  CHECK(infer_error(OpKind::LSTM, good) == std::nullopt);
  CHECK(with("activations", std::vector<Text>{"Sigmoid", "Tanh", "Tanh"}) == std::nullopt);
  CHECK(with("activations", std::vector<Text>{"Relu", "Tanh", "Tanh"}) == ErrorId::M046);
  CHECK(with("clip", 1.0) == ErrorId::M046);
  CHECK(with("input_forget", int64_t{1}) == ErrorId::M046);
  CHECK(with("activation_alpha", Numbers{0.5}) == ErrorId::M046);
  CHECK(with("direction", Text("bidirectional")) == ErrorId::M032);
  CHECK(with("direction", Text("backward")) == ErrorId::M031);
  CHECK(with("hidden_size", int64_t{5}) == ErrorId::M031);
  CHECK(with("layout", int64_t{2}) == ErrorId::M031);
  CHECK(infer_error(OpKind::LSTM, {{3, 2, 5}, {1, 16, 5}, {1, 15, 4}}) == ErrorId::M032);
  CHECK(infer_error(OpKind::LSTM, {{3, 2, 5}, {1, 0, 5}, {1, 0, 0}}) == ErrorId::M032);
  const Tensors inputs = {counting({3, 2, 1}), counting({1, 4, 1}), counting({1, 4, 1}), std::nullopt,
                          tensor({2}, {4, 1}, DType::i32)};
  CHECK(error_of(OpKind::LSTM, inputs) == ErrorId::M033);
}

TEST_CASE("GRU: one step by hand, gates in the order z, r, h") {
  // z = sigmoid(ln 3) = 3/4 and r = sigmoid(-ln 3) = 1/4 by their biases alone. The hidden gate sees h = 5 with weight
  // 0.2 and has the biases Wbh = 0.1 and Rbh = 0.4: tanh(0.1 + 0.4 + (5/4) 0.2), or linear before reset
  // tanh(0.1 + (5 * 0.2 + 0.4) / 4).
  const double log3 = std::log(3.0);
  const Literal bias = tensor({1, 6}, {log3, -log3, 0.1, 0, 0, 0.4});
  const Tensors inputs = {
      tensor({1, 1, 1}, {7}), tensor({1, 3, 1}, Numbers(3, 0.0)), tensor({1, 3, 1}, {0, 0, 0.2}), bias, std::nullopt,
      tensor({1, 1, 1}, {5})};
  for (const int64_t is_linear_before : {0, 1}) {
    const Tensors results = eval_all(OpKind::GRU, inputs, {{"linear_before_reset", is_linear_before}}, 2);
    const double gate = std::tanh(is_linear_before == 0 ? 0.75 : 0.45);
    CHECK(is_near(*results[0], {0.25 * gate + 0.75 * 5}));
    CHECK(is_near(*results[1], {0.25 * gate + 0.75 * 5}));
  }
}

TEST_CASE("GRU: beyond a sequence's end Y is zero and the state stays") {
  const Literal x = counting({3, 2, 1});
  const Literal w = tensor({1, 3, 1}, {0.1, 0.2, 0.3});
  const Literal lengths = tensor({2}, {3, 0}, DType::i32);
  const Literal state = tensor({1, 2, 1}, {0.5, 0.25});
  const Tensors results = eval_all(OpKind::GRU, {x, w, w, std::nullopt, lengths, state}, {}, 2);
  const Numbers y = numbers_of(*results[0]);
  for (const size_t step : {0, 1, 2}) CHECK(y[step * 2 + 1] == 0);
  CHECK(numbers_of(*results[1])[1] == 0.25);
  CHECK(numbers_of(*results[1])[0] == y[4]);
}

TEST_CASE("GRU: what is not supported or does not fit is refused") {
  const std::vector<Shape> good = {{3, 2, 5}, {1, 12, 5}, {1, 12, 4}};
  const auto with = [&](const char* name, Attribute value) {
    return infer_error(OpKind::GRU, good, {{name, std::move(value)}});
  };
  CHECK(infer_error(OpKind::GRU, good) == std::nullopt);
  CHECK(with("linear_before_reset", int64_t{1}) == std::nullopt);
  CHECK(with("linear_before_reset", int64_t{2}) == ErrorId::M031);
  CHECK(with("activations", std::vector<Text>{"sigmoid", "tanh"}) == std::nullopt);
  CHECK(with("activations", std::vector<Text>{"Sigmoid", "Relu"}) == ErrorId::M046);
  CHECK(with("activations", std::vector<Text>{"Sigmoid", "Tanh", "Tanh"}) == ErrorId::M046);
  CHECK(with("clip", 1.0) == ErrorId::M046);
  CHECK(with("direction", Text("bidirectional")) == ErrorId::M032);
  CHECK(infer_error(OpKind::GRU, {{3, 2, 5}, {1, 16, 5}, {1, 16, 4}}) == ErrorId::M032);
  const std::vector<Shape> gradient = {{3, 1, 2, 12}, {3, 2, 5}, {3, 1, 2, 4}, {3, 1, 2, 4}};
  CHECK(infer_error(OpKind::GRUWeightGrad, gradient) == std::nullopt);
  CHECK(infer_error(OpKind::GRUWeightGrad, {gradient[0], gradient[1], gradient[2], {3, 1, 2, 12}}) == ErrorId::M032);
  const Tensors inputs = {counting({3, 2, 1}), counting({1, 3, 1}), counting({1, 3, 1}), std::nullopt,
                          tensor({2}, {4, 1}, DType::i32)};
  CHECK(error_of(OpKind::GRU, inputs) == ErrorId::M033);
}

}  // namespace mpc::test
