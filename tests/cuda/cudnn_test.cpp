// cuDNN's graphs without a GPU: cuDNN finds engines for a device that is only described (tests/cuda/h200.json). Ends
// with 77 where cuDNN is not installed.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "api/reference_evaluator.h"
#include "executor/cuda/libraries.h"
#include "executor/cuda/library_kernels.h"
#include "tests/cuda/model_file.h"
#include "tests/support/run_plan.h"

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

executor::NodeSpec spec_of(const Plan& plan, const PlanNode& node) {
  executor::NodeSpec spec;
  spec.op = node.op;
  spec.attributes = &node.attributes[0];
  const auto operand = [&](PlanIndex value) {
    if (value == kNone) return executor::NodeSpec::Operand{};
    return executor::NodeSpec::Operand{plan.values[value].dtype, plan.values[value].shapes[0], true, false};
  };
  for (const PlanIndex value : node.inputs) spec.inputs.push_back(operand(value));
  for (const PlanIndex value : node.outputs) spec.outputs.push_back(operand(value));
  return spec;
}

}  // namespace

TEST_CASE("cudnn: a deterministic engine of full precision exists for the convolutions of ResNet-50") {
  const std::string device = device_json();
  REQUIRE(!device.empty());
  for (const OpKind op : {OpKind::Conv, OpKind::ConvInputGrad, OpKind::ConvWeightGrad}) {
    CAPTURE(op_name(op));
    const auto refusal = [&](const ConvCase& c, bool tf32) {
      return cuda::cudnn_convolution_refusal(c.node, {.allows_tf32 = tf32, .product = {}}, device);
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

TEST_CASE("cudnn: every convolution that the zoo's ResNet-50 trains with has an engine, in f32, tf32 and bf16") {
  const std::string device = device_json();
  REQUIRE(!device.empty());
  const test::ModelFile file("resnet50", {.batch = 8, .weights = false, .sizes = {}});
  const onnx_io::Model model = file.load();
  const ReferenceEvaluator evaluator;
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    PlanOptions options;
    options.batch = 8;
    options.train = true;
    options.precision = precision;
    const Plan plan = test::plan_on_cpus(model, 1, options, evaluator);
    std::set<std::string> seen;
    for (const PlanNode& node : plan.nodes) {
      const bool is_convolution =
          node.op == OpKind::Conv || node.op == OpKind::ConvInputGrad || node.op == OpKind::ConvWeightGrad;
      if (!is_convolution) continue;
      const executor::NodeSpec spec = spec_of(plan, node);
      std::string key(op_name(node.op));
      for (const auto& operand : spec.inputs) key += " " + to_string(operand.shape);
      if (!seen.insert(key).second) continue;
      CAPTURE(key);
      CHECK(cuda::cudnn_convolution_refusal(spec, {}, device) == "");
      if (precision != Precision::f32) continue;
      CHECK(cuda::cudnn_convolution_refusal(spec, {.allows_tf32 = true, .product = {}}, device) == "");
    }
    CHECK(seen.size() > 40);
  }
}

TEST_CASE("cudnn: what is not a convolution of cuDNN is declined with a reason") {
  const ConvCase f64(OpKind::Conv, DType::f64, {1, 3, 8, 8}, {4, 3, 3, 3}, 1, 1);
  CHECK(cuda::cudnn_convolution_refusal(f64.node, {}, device_json()).find("only f32") != std::string::npos);
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
