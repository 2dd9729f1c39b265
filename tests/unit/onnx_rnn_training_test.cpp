// An imported RNN is trained: its gradients are those of finite differences, and the same bits on one device and on
// two.

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "api/reference_evaluator.h"
#include "tests/support/random_graph.h"
#include "tests/support/run_plan.h"
#include "tests/unit/onnx_support.h"

namespace mpc::test {
namespace {

constexpr uint64_t kSeed = 5;

/// Seeded weights, one of them moved by `distance` along a direction that its elements have the signs of.
class MovedWeights : public WeightSource {
 public:
  MovedWeights(std::string name, double distance) : name_(std::move(name)), distance_(distance) {}
  static double direction(int64_t element) { return element % 3 == 0 ? -1 : 0.5; }

  void read(const std::string& name, int64_t offset, std::span<std::byte> out) const override {
    seeded_.read(name, offset, out);
    if (name != name_) return;
    float value = 0;
    for (size_t i = 0; i < out.size(); i += sizeof(value)) {
      std::memcpy(&value, out.data() + i, sizeof(value));
      const int64_t element = (offset + static_cast<int64_t>(i)) / static_cast<int64_t>(sizeof(value));
      value = static_cast<float>(static_cast<double>(value) + distance_ * direction(element));
      std::memcpy(out.data() + i, &value, sizeof(value));
    }
  }
  DType dtype(const std::string& name) const override { return seeded_.dtype(name); }

 private:
  SeededWeights seeded_{kSeed};
  std::string name_;
  double distance_;
};

void add_weight(pb::ModelProto& model, const std::string& name, const std::vector<int64_t>& dims) {
  pb::TensorProto& tensor = *model.mutable_graph()->add_initializer();
  tensor.set_name(name);
  tensor.set_data_type(pb::TensorProto::FLOAT);
  int64_t elements = 1;
  for (const int64_t dim : dims) {
    tensor.add_dims(dim);
    elements *= dim;
  }
  // Not what is trained: that is MovedWeights.
  for (int64_t i = 0; i < elements; ++i) tensor.add_float_data(static_cast<float>(i));
}

/// 4 rows of 5 steps with 3 numbers each, a state of 6, and a product of its last one.
pb::ModelProto model_of(const std::string& attributes, int64_t directions, const std::string& operands = "") {
  const std::string columns = std::to_string(directions * 6);
  pb::ModelProto model =
      parse_graph("(float[4,5,3] x) => (float[4,2] y) <int64[2] shape = {4, " + columns +
                  "}, int32[4] lengths = {5, 2, 1, 4}> { s, h = RNN<hidden_size = 6, layout = 1" + attributes +
                  ">(x, w, r, b" + operands + ") flat = Reshape(h, shape) y = MatMul(flat, v) }");
  add_weight(model, "w", {directions, 6, 3});
  add_weight(model, "r", {directions, 6, 6});
  add_weight(model, "b", {directions, 12});
  add_weight(model, "v", {directions * 6, 2});
  return model;
}

}  // namespace

TEST_CASE("rnn: gradients of an imported RNN are those of finite differences, on one device and on two") {
  const std::vector<pb::ModelProto> models = {
      model_of("", 1),
      model_of(", direction = \"reverse\", activations = [\"Sigmoid\"]", 1),
      model_of(", direction = \"bidirectional\", activations = [\"Tanh\", \"Softplus\"]", 2),
      model_of("", 1, ", lengths"),
  };
  const ReferenceEvaluator evaluator;
  for (size_t i = 0; i < models.size(); ++i) {
    CAPTURE(i);
    const onnx_io::Model model = load(models[i]);
    PlanOptions options;
    options.train = true;
    options.loss = LossKind::mse;
    const Plan plan = plan_on_cpus(model, 1, options, evaluator);
    RunOptions run_options;
    run_options.seed = kSeed;
    run_options.steps = 1;
    const auto moved = [&](const std::string& name, double distance) {
      return run_plan(plan, MovedWeights(name, distance), run_options);
    };
    const Outcome expected = moved("", 0);
    for (const std::string name : {"w", "r", "b", "v"}) {
      CAPTURE(name);
      REQUIRE(expected.tensors.contains("gradient of " + name));
      const Literal& gradient = expected.tensors.at("gradient of " + name);
      double along = 0;
      double size = 0;
      for (int64_t e = 0; e < gradient.shape().elements(); ++e) {
        along += gradient.number(e) * MovedWeights::direction(e);
        size += std::abs(gradient.number(e));
      }
      // The loss is rounded to f32: 6e-8 of about 1, over two distances 3e-6. What is left out is of the order of the
      // distance's square, 1e-4.
      constexpr double kDistance = 1e-2;
      const double difference =
          (moved(name, kDistance).losses[0] - moved(name, -kDistance).losses[0]) / (2 * kDistance);
      CHECK(along == doctest::Approx(difference).epsilon(2e-3).scale(size));
      CHECK(size > 0.01);
    }
    const Plan two = plan_on_cpus(model, 2, options, evaluator);
    std::set<DeviceId> devices;
    for (const PlanNode& node : two.nodes) devices.insert(node.device);
    CHECK(devices.size() == 2);
    CHECK(find_difference(expected, run_plan(two, MovedWeights("", 0), run_options)).value_or("") == "");
  }
}

}  // namespace mpc::test
