// Row S-Q: gradients, norms, updates and finite checks of each part by itself, through the public interface.

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "models/zoo.h"
#include "mpc/mpc.h"
#include "tests/unit/helpers.h"

namespace mpc::test {
namespace {

constexpr int kFeatures = 0;
constexpr int kClassifier = 1;

/// The small CNN of row S-I on two devices, an Adam for each part, and a session with one batch bound.
class TwoParts {
 public:
  explicit TwoParts(const std::string& frozen = "")
      : model_(load(folder_ / "model.onnx")), session_(plan_of(model_, frozen), model_) {
    session_.bind("x", random_tensor(v1::DType::f32, {64, 3, 32, 32}, 1, "x"));
    session_.bind("labels", random_tensor(v1::DType::i64, {64}, 1, "labels", 10));
  }
  Session& session() { return session_; }
  std::map<std::string, Tensor> parameters_on(int device) {
    std::map<std::string, Tensor> tensors;
    for (const ParameterInfo& info : session_.parameters()) {
      if (info.device == device) tensors.emplace(info.name, session_.parameter(info.name));
    }
    return tensors;
  }

 private:
  static Model load(const std::string& path) {
    zoo::write("cnn-classifier-32", {}, path);
    return Model::load(path);
  }
  static v1::Plan plan_of(const Model& model, const std::string& frozen) {
    CompileOptions options;
    options.pins = {{"features/", kFeatures}, {"classifier/", kClassifier}, {"loss/", kClassifier}};
    options.training = TrainingOptions();
    options.training->groups = {{"features/.*", "adam,lr=0.001"}, {"classifier/.*", "adam,lr=0.001"}};
    options.training->frozen = frozen;
    return compile(model, v1::Cluster::devices("cpu:2"), options).value();
  }

  TemporaryFolder folder_;
  Model model_;
  Session session_;
};

double norm_of(const std::vector<Tensor>& tensors) {
  double squares = 0;
  for (const Tensor& tensor : tensors) {
    for (int64_t i = 0; i < tensor.elements(); ++i) squares += tensor.number(i) * tensor.number(i);
  }
  return std::sqrt(squares);
}

v1::StepOptions update_of(int device) {
  v1::StepOptions options;
  options.update_devices = {device};
  return options;
}

v1::StepOptions without_update() {
  v1::StepOptions options;
  options.update = false;
  return options;
}

TEST_CASE("S-Q: each part has its gradients and their norm, and together they are the norm of all") {
  TwoParts parts;
  parts.session().step(without_update());
  const auto gradients = parts.session().part_gradients();
  REQUIRE(gradients.size() == 2);
  double squares = 0;
  for (const PartGradient& part : gradients) {
    std::vector<Tensor> tensors;
    for (const ParameterInfo& info : parts.session().parameters()) {
      if (info.device == part.device) tensors.push_back(parts.session().gradient(info.name));
    }
    CHECK(tensors.size() == 2);  // weight and bias
    CHECK(part.is_finite);
    CHECK(part.norm > 0);
    // Sums of squares in double: only their order may differ.
    CHECK(part.norm == doctest::Approx(norm_of(tensors)).epsilon(1e-12));
    squares += part.norm * part.norm;
  }
  CHECK(parts.session().gradient_norm() == doctest::Approx(std::sqrt(squares)).epsilon(1e-12));
}

TEST_CASE("S-Q: a part can be stepped alone, and both alone make one whole step") {
  TwoParts whole;
  TwoParts parts;
  whole.session().step();
  const auto features = parts.parameters_on(kFeatures);
  const auto classifier = parts.parameters_on(kClassifier);
  parts.session().step(without_update());
  parts.session().update(update_of(kClassifier));
  CHECK(parts.parameters_on(kFeatures) == features);
  CHECK(parts.parameters_on(kClassifier) != classifier);
  parts.session().update(update_of(kFeatures));
  CHECK(parts.parameters_on(kFeatures) == whole.parameters_on(kFeatures));
  CHECK(parts.parameters_on(kClassifier) == whole.parameters_on(kClassifier));
  CHECK(parts.session().steps_done() == 1);
}

TEST_CASE("S-Q: a frozen part keeps its weights, costs no gradient, and nothing is sent back to it") {
  TwoParts parts("features/.*");
  const auto features = parts.parameters_on(kFeatures);
  const auto classifier = parts.parameters_on(kClassifier);
  parts.session().step();
  CHECK(parts.parameters_on(kFeatures) == features);
  CHECK(parts.parameters_on(kClassifier) != classifier);
  const auto gradients = parts.session().part_gradients();
  REQUIRE(gradients.size() == 1);
  CHECK(gradients[0].device == kClassifier);
  const auto transfers = parts.session().plan().transfers();
  REQUIRE(transfers.size() == 1);
  CHECK(transfers[0].from == kFeatures);
  CHECK(parts.session().plan().devices()[kFeatures].optimizer_bytes == 0);
}

Tensor scaled(const Tensor& tensor, float factor) {
  std::vector<float> values = tensor.as<float>();
  for (float& value : values) value *= factor;
  return Tensor::from(tensor.shape, values);
}

TEST_CASE("S-Q: the finite check tells the part whose gradients are not finite") {
  TwoParts parts;
  Session& session = parts.session();
  session.step(without_update());
  for (const PartGradient& part : session.part_gradients()) CHECK(part.is_finite);
  // Huge images and tiny convolution weights: the features, and with them the classifier's gradients, stay moderate,
  // but the convolution's weight gradient is images times what comes back, above 3e38.
  session.bind("x", scaled(random_tensor(v1::DType::f32, {64, 3, 32, 32}, 1, "x"), 1e38F));
  session.set_parameter("features/conv/weight", scaled(session.parameter("features/conv/weight"), 1e-36F));
  session.set_parameter("classifier/fc/weight", scaled(session.parameter("classifier/fc/weight"), 1e6F));
  session.step(without_update());
  const auto gradients = session.part_gradients();
  REQUIRE(gradients.size() == 2);
  for (const PartGradient& part : gradients) {
    INFO("part on device ", part.device);
    CHECK(part.is_finite == (part.device == kClassifier));
  }
}

}  // namespace
}  // namespace mpc::test
