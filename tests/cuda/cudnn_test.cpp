// cuDNN's graphs without a GPU: cuDNN finds engines for a device that is only described (tests/cuda/h200.json). Ends
// with 77 where cuDNN is not installed.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "executor/cuda/code_cache.h"
#include "executor/cuda/libraries.h"
#include "executor/cuda/library_kernels.h"
#include "tests/cuda/zoo_nodes.h"
#include "tests/unit/helpers.h"

namespace {

using namespace mpc;

std::string device_json() {
  std::ifstream file(std::string(MPC_SOURCE_DIR) + "/tests/cuda/h200.json");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// A convolution node; x (N, C, H, W), w (M, C / groups, k, k).
struct ConvCase {
  ConvCase(OpKind op_in, DType dtype, const Shape& x, const Shape& w, int64_t stride, int64_t pad, int64_t groups = 1)
      : op(op_in) {
    attributes = {{"strides", std::vector<int64_t>{stride, stride}},
                  {"pads", std::vector<int64_t>{pad, pad, pad, pad}},
                  {"dilations", std::vector<int64_t>{1, 1}},
                  {"group", groups}};
    const auto out = [&](int axis) { return (x[axis] + 2 * pad - w[axis]) / stride + 1; };
    const Shape y{x[0], w[0], out(2), out(3)};
    const auto type = [&](const Shape& shape) { return executor::NodeSpec::Operand{dtype, shape, true, false}; };
    node.op = op;
    node.attributes = &attributes;
    if (op == OpKind::Conv) node.inputs = {type(x), type(w)}, node.outputs = {type(y)};
    if (op == OpKind::ConvInputGrad) node.inputs = {type(y), type(w)}, node.outputs = {type(x)};
    if (op == OpKind::ConvWeightGrad) node.inputs = {type(y), type(x)}, node.outputs = {type(w)};
  }
  OpKind op;
  Attributes attributes;
  executor::NodeSpec node;
};

}  // namespace

TEST_CASE("cudnn: a deterministic engine of full precision exists for the convolutions of ResNet-50") {
  const std::string device = device_json();
  REQUIRE(!device.empty());
  for (const OpKind op : {OpKind::Conv, OpKind::ConvInputGrad, OpKind::ConvWeightGrad}) {
    CAPTURE(op_name(op));
    const auto refusal = [&](const ConvCase& c, bool tf32) {
      return cuda::cudnn_refusal(c.node, {.allows_tf32 = tf32, .product = {}}, device);
    };
    const ConvCase stem(op, DType::f32, {8, 3, 224, 224}, {64, 3, 7, 7}, 2, 3);
    const ConvCase middle(op, DType::f32, {8, 64, 56, 56}, {64, 64, 3, 3}, 1, 1);
    const ConvCase point(op, DType::f32, {8, 256, 56, 56}, {512, 256, 1, 1}, 2, 0);
    CHECK(refusal(stem, false) == "");
    CHECK(refusal(middle, false) == "");
    CHECK(refusal(point, false) == "");
    CHECK(refusal(middle, true) == "");
  }
}

namespace {

/// The zoo's models with the sizes at which they are meant to be trained; but few layers, since layers are alike.
std::vector<test::ZooCase> zoo_cases() {
  const auto sized = [](std::map<std::string, int64_t> sizes) {
    return zoo::Options{.batch = 8, .weights = false, .sizes = std::move(sizes)};
  };
  return {
      {"cnn-classifier", sized({})},
      {"cnn-classifier-32", sized({})},
      {"resnet18", sized({})},
      {"resnet50", sized({})},
      {"inception", sized({})},
      {"unet", sized({})},
      {"vit-b", sized({{"layers", 1}})},
      {"bert-base", sized({{"layers", 1}})},
      {"gpt2", sized({{"layers", 1}, {"sequence", 1024}})},
      {"gpt2-xl", sized({{"layers", 1}, {"sequence", 1024}})},
      {"llama", sized({{"layers", 1}})},
      {"moe", sized({{"layers", 1}})},
  };
}

/// Runs `check` on every node of the zoo's plans that is for cuDNN.
void for_each_zoo_node(Precision precision, const std::function<void(const executor::NodeSpec&)>& check) {
  CHECK(test::for_each_zoo_node(zoo_cases(), precision, cuda::is_for_cudnn, check) > 60);
}

}  // namespace

TEST_CASE("cudnn: every graph that the zoo's plans ask for has an engine, in f32, tf32, bf16 and f16") {
  const std::string device = device_json();
  REQUIRE(!device.empty());
  for_each_zoo_node(Precision::f32,
                    [&](const executor::NodeSpec& node) { CHECK(cuda::cudnn_refusal(node, {}, device) == ""); });
  for_each_zoo_node(Precision::tf32, [&](const executor::NodeSpec& node) {
    CHECK(cuda::cudnn_refusal(node, {.allows_tf32 = true, .product = {}}, device) == "");
  });
  for (const Precision precision : {Precision::bf16, Precision::f16}) {
    int attention = 0;
    for_each_zoo_node(precision, [&](const executor::NodeSpec& node) {
      CHECK(cuda::cudnn_refusal(node, {}, device) == "");
      attention += node.op == OpKind::ScaledDotProductAttention || node.op == OpKind::ScaledDotProductAttentionGrad;
    });
    CHECK(attention == 12);  // of six kinds of transformers, forward and backward
  }
}

TEST_CASE("cudnn: the moving statistics beside its batch normalization are those of the plugin's own kernel") {
  constexpr int64_t kChannels = 3;
  const Shape x_shape{4, kChannels, 5};
  const auto of = [](const Shape& shape) { return executor::NodeSpec::Operand{DType::f32, shape, true, false}; };
  const Attributes attributes = {{"epsilon", 1e-5}, {"momentum", 0.75}};
  executor::NodeSpec node;
  node.op = OpKind::BatchNormalizationTraining;
  node.attributes = &attributes;
  node.inputs.assign(5, of({kChannels}));
  node.outputs.assign(5, of({kChannels}));
  node.inputs[0] = node.outputs[0] = of(x_shape);
  std::vector<std::vector<float>> inputs(5, std::vector<float>(kChannels, 0.5F));
  inputs[0].resize(static_cast<size_t>(x_shape.elements()));
  for (size_t i = 0; i < inputs[0].size(); ++i) {
    const size_t channel = i / 5 % kChannels;
    // The last channel is constant: of its variance of 0 only epsilon is left in the inverse deviation.
    inputs[0][i] = channel == 2 ? 7.0F : static_cast<float>(i % 7) + static_cast<float>(channel);
  }
  std::vector<std::vector<float>> outputs(5, std::vector<float>(kChannels));
  outputs[0].resize(inputs[0].size());
  std::vector<void*> in;
  std::vector<void*> out;
  for (auto& operand : inputs) in.push_back(operand.data());
  for (auto& operand : outputs) out.push_back(operand.data());
  cuda::Launch launch;
  launch.inputs = in;
  launch.outputs = out;
  const cuda::KernelOrReason own = cuda::find_own_kernel(node, {});
  REQUIRE(own.kernel != nullptr);
  own.kernel->run(launch);
  const std::vector<float> mean = std::exchange(outputs[1], std::vector<float>(kChannels));
  const std::vector<float> variance = std::exchange(outputs[2], std::vector<float>(kChannels));
  out[1] = outputs[1].data();
  out[2] = outputs[2].data();
  cuda::MovingStatistics(node).run(launch);
  for (size_t c = 0; c < kChannels; ++c) {
    CHECK(outputs[1][c] == doctest::Approx(mean[c]).epsilon(1e-6));
    // The inverse deviation is rounded to f32, so its square's reciprocal is 2^-23 off.
    CHECK(outputs[2][c] == doctest::Approx(variance[c]).epsilon(1e-6));
  }
  CHECK(outputs[2][2] == doctest::Approx(0.75 * 0.5).epsilon(1e-6));
}

TEST_CASE("cudnn: what its batch normalization cannot do is declined with a reason") {
  const auto of = [](DType dtype, const Shape& shape) {
    return executor::NodeSpec::Operand{dtype, shape, true, false};
  };
  const Attributes attributes = {{"epsilon", 1e-5}, {"momentum", 0.9}};
  const Shape x{8, 64, 56, 56};
  executor::NodeSpec node;
  node.op = OpKind::BatchNormalizationGrad;
  node.attributes = &attributes;
  node.inputs = {of(DType::f32, x), of(DType::f32, x), of(DType::f32, {64})};
  node.outputs = {of(DType::f32, x), of(DType::f32, {64}), of(DType::f32, {64})};
  const auto refusal = [&] { return cuda::cudnn_refusal(node, {}, device_json()); };
  CHECK(refusal().find("mean and deviation") != std::string::npos);
  node.inputs.resize(5, of(DType::f32, {64}));
  CHECK(refusal() == "");
  node.outputs[2].is_present = false;
  CHECK(refusal().find("not asked for") != std::string::npos);
  node.outputs[2].is_present = true;
  node.inputs[1].dtype = DType::f64;
  CHECK(refusal().find("only f32") != std::string::npos);
}

TEST_CASE("cudnn: a plan that was kept is taken again; what differs in anything has a plan of its own") {
  const std::string device = device_json();
  const test::TemporaryFolder folder;
  const cuda::CodeCache cache(folder / "plans");
  const auto asks = [&](const ConvCase& c, bool tf32, const std::string& gpu) {
    CHECK(cuda::cudnn_refusal(c.node, {.allows_tf32 = tf32, .product = {}}, gpu, &cache) == "");
  };
  const auto files = [&] {
    std::map<std::string, std::filesystem::file_time_type> times;
    for (const auto& file : std::filesystem::directory_iterator(folder / "plans")) {
      times[file.path().string()] = file.last_write_time();
    }
    return times;
  };
  const ConvCase middle(OpKind::Conv, DType::f32, {8, 64, 56, 56}, {64, 64, 3, 3}, 1, 1);
  asks(middle, false, device);
  const auto first = files();
  REQUIRE(first.size() == 1);
  asks(middle, false, device);
  CHECK(files() == first);  // what is looked for again is written again
  asks(middle, true, device);
  CHECK(files().size() == 2);
  asks(middle, false, device + " ");
  CHECK(files().size() == 3);
  asks(ConvCase(OpKind::Conv, DType::f32, {4, 64, 56, 56}, {64, 64, 3, 3}, 1, 1), false, device);
  asks(ConvCase(OpKind::Conv, DType::f32, {8, 64, 56, 56}, {64, 64, 3, 3}, 2, 1), false, device);
  asks(ConvCase(OpKind::ConvInputGrad, DType::f32, {8, 64, 56, 56}, {64, 64, 3, 3}, 1, 1), false, device);
  CHECK(files().size() == 6);
}

TEST_CASE("cudnn: attention that reads q, k and v in one operand has an engine, forward and backward") {
  const std::string device = device_json();
  REQUIRE(!device.empty());
  const Shape y{8, 1024, 12, 64};
  const Shape qkv{8, 1024, 3, 12, 64};
  const Shape sums{8, 12, 1024};
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const bool is_causal : {false, true}) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(is_causal);
      const Attributes attributes = {{"scale", 0.125}, {"is_causal", int64_t{is_causal}}};
      const auto of = [](DType type, const Shape& shape) {
        return executor::NodeSpec::Operand{type, shape, true, false};
      };
      executor::NodeSpec node;
      node.attributes = &attributes;
      node.op = OpKind::ScaledDotProductAttention;
      node.inputs = {of(dtype, qkv)};
      node.outputs = {of(dtype, y), of(DType::f32, sums)};
      CHECK(cuda::cudnn_refusal(node, {}, device) == "");
      node.op = OpKind::ScaledDotProductAttentionGrad;
      node.inputs = {of(dtype, y), of(dtype, qkv), of(dtype, y), of(DType::f32, sums)};
      node.outputs = {of(dtype, qkv)};
      CHECK(cuda::cudnn_refusal(node, {}, device) == "");
    }
  }
}

TEST_CASE("cudnn: attention with a mask that is added has an engine, forward and backward") {
  const std::string device = device_json();
  REQUIRE(!device.empty());
  const Shape y{8, 128, 12, 64};
  const Shape sums{8, 12, 128};
  const Attributes attributes = {{"scale", 0.125}, {"is_causal", int64_t{0}}};
  const auto of = [](DType type, const Shape& shape) { return executor::NodeSpec::Operand{type, shape, true, false}; };
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const Shape& qkv : {Shape{8, 128, 3, 12, 64}, y}) {
      for (const Shape& mask : {Shape{8, 1, 128, 128}, Shape{1, 1, 128, 128}, Shape{1, 12, 128, 128},
                                Shape{8, 12, 128, 128}, Shape{8, 1, 1, 128}, Shape{1, 1, 1, 128}}) {
        CAPTURE(dtype_name(dtype));
        CAPTURE(to_string(qkv));
        CAPTURE(to_string(mask));
        const size_t operands = qkv == y ? 3 : 1;
        executor::NodeSpec node;
        node.attributes = &attributes;
        node.op = OpKind::ScaledDotProductAttention;
        node.inputs.assign(operands, of(dtype, qkv));
        node.inputs.push_back(of(DType::f32, mask));
        node.outputs = {of(dtype, y), of(DType::f32, sums)};
        CHECK(cuda::cudnn_refusal(node, {}, device) == "");
        node.op = OpKind::ScaledDotProductAttentionGrad;
        node.inputs.assign(operands, of(dtype, qkv));
        node.inputs.insert(node.inputs.begin(), of(dtype, y));
        node.inputs.insert(node.inputs.end(), {of(dtype, y), of(DType::f32, sums), of(DType::f32, mask)});
        node.outputs.assign(operands, of(dtype, qkv));
        CHECK(cuda::cudnn_refusal(node, {}, device) == "");
      }
    }
  }
}

TEST_CASE("cudnn: what is not a convolution of cuDNN is declined with a reason") {
  const ConvCase f64(OpKind::Conv, DType::f64, {1, 3, 8, 8}, {4, 3, 3, 3}, 1, 1);
  CHECK(cuda::cudnn_refusal(f64.node, {}, device_json()).find("only f32") != std::string::npos);
}

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  const cuda::Library& cudnn = cuda::library(cuda::LibraryName::cudnn);
  if (cudnn.handle == nullptr) {
    std::fprintf(stderr, "skipped: %s\n", cudnn.path.c_str());
    return kSkipped;
  }
  doctest::Context context(argc, argv);
  return context.run();
}
