#include <cmath>

#include "mpc/mpc.h"
#include "tests/e2e/cli.h"

// The public API as an embedder uses it, where the program does not reach: parts of a step, gradients, errors.

using namespace mpc::test;

namespace {

/// A training session of a sample model on two devices with a batch bound to it.
struct Trained {
  Trained(const TemporaryFolder& folder, const std::string& name, const std::vector<mpc::DevicePin>& pins,
          const mpc::TrainingOptions& training, const std::string& devices = "cpu:2")
      : model(mpc::Model::load(zoo_model(folder, name))), session(plan(pins, training, devices), model) {
    for (const mpc::TensorInfo& input : session.plan().inputs()) {
      session.bind(input.name, mpc::random_tensor(input.dtype, input.shape, 1, input.name, input.bound));
    }
  }
  mpc::Plan plan(const std::vector<mpc::DevicePin>& pins, const mpc::TrainingOptions& training,
                 const std::string& devices) const {
    mpc::CompileOptions options;
    options.pins = pins;
    options.training = training;
    return mpc::compile(model, mpc::Cluster::devices(devices), options).value();
  }
  std::map<std::string, mpc::Tensor> parameters() const {
    std::map<std::string, mpc::Tensor> values;
    for (const mpc::ParameterInfo& info : session.parameters()) values.emplace(info.name, session.parameter(info.name));
    return values;
  }

  mpc::Model model;
  mpc::Session session;
};

const std::vector<mpc::DevicePin> kClassifierPins = {{"features/", 0}, {"classifier/", 1}, {"loss/", 1}};

}  // namespace

TEST_CASE("library, S-Q: each part has gradients, a norm and a finite check of its own") {
  const TemporaryFolder folder;
  Trained trained(folder, "cnn-classifier-32", kClassifierPins, {.optimizer = "adam,lr=0.001"});
  trained.session.step({.update = false});
  const std::vector<mpc::PartGradient> parts = trained.session.part_gradients();
  REQUIRE(parts.size() == 2);
  double all = 0;
  for (const mpc::PartGradient& part : parts) {
    CHECK(part.is_finite);
    double sum = 0;
    for (const mpc::ParameterInfo& info : trained.session.parameters()) {
      if (info.device != part.device) continue;
      const mpc::Tensor gradient = trained.session.gradient(info.name);
      CHECK(gradient.shape == info.shape);
      for (const float value : gradient.as<float>()) sum += static_cast<double>(value) * value;
    }
    CHECK(part.norm == doctest::Approx(std::sqrt(sum)).epsilon(1e-12));
    all += sum;
  }
  CHECK(trained.session.gradient_norm() == doctest::Approx(std::sqrt(all)).epsilon(1e-12));
}

TEST_CASE("library, S-Q: one part is stepped alone, and both parts in turn are one step") {
  const TemporaryFolder folder;
  const mpc::TrainingOptions adam = {.optimizer = "adam,lr=0.001"};
  Trained whole(folder, "cnn-classifier-32", kClassifierPins, adam);
  Trained parts(folder, "cnn-classifier-32", kClassifierPins, adam);
  const auto before = parts.parameters();
  whole.session.step();
  parts.session.step({.update = false});
  CHECK(parts.parameters() == before);
  parts.session.update({.update_devices = {0}});
  for (const mpc::ParameterInfo& info : parts.session.parameters()) {
    CAPTURE(info.name);
    CHECK((parts.session.parameter(info.name) == before.at(info.name)) == (info.device == 1));
  }
  parts.session.update({.update_devices = {1}});
  CHECK(parts.parameters() == whole.parameters());
  CHECK(parts.session.steps_done() == 1);
}

TEST_CASE("library: a learning rate scaled to zero changes nothing under SGD") {
  const TemporaryFolder folder;
  Trained trained(folder, "tiny-linear", {}, {.loss = "mse", .optimizer = "sgd,lr=0.1"}, "cpu:1");
  const auto before = trained.parameters();
  trained.session.step({.learning_rate_scale = 0});
  CHECK(trained.parameters() == before);
  trained.session.step();
  CHECK(trained.parameters() != before);
}

TEST_CASE("library: parameters can be read, set and saved") {
  const TemporaryFolder folder;
  Trained trained(folder, "tiny-linear", {}, {.loss = "mse"}, "cpu:1");
  const mpc::ParameterInfo info = trained.session.parameters().front();
  mpc::Tensor ones = trained.session.parameter(info.name);
  ones = mpc::Tensor::from(ones.shape, std::vector<float>(static_cast<size_t>(ones.elements()), 1.0f));
  trained.session.set_parameter(info.name, ones);
  CHECK(trained.session.parameter(info.name) == ones);
  trained.session.save_model(folder / "saved.onnx");
  const mpc::Model saved = mpc::Model::load(folder / "saved.onnx");
  const mpc::Session session(mpc::compile(saved, mpc::Cluster::devices("cpu:1")).value(), saved);
  CHECK(session.parameter(info.name) == ones);
  CHECK(error_id([&] { trained.session.set_parameter(info.name, mpc::Tensor::zeros(mpc::DType::f64, ones.shape)); }) ==
        "M004");
  CHECK(error_id([&] { trained.session.parameter("nobody"); }) == "M002");
  CHECK(error_id([&] { trained.session.gradient("nobody"); }) == "M002");
}

TEST_CASE("library: weights that a plan keeps in another form are read and set as the model has them") {
  const TemporaryFolder folder;
  // GPT-2's table is read as it is and, transposed and rounded, by the head; the weights of q, k and v lie side by
  // side.
  const std::vector<std::string> sizes = {"--size",  "layers=1",    "--size",   "hidden=16", "--size",
                                          "heads=2", "--size",      "vocab=24", "--size",    "sequence=8",
                                          "--size",  "positions=8", "--batch",  "2",         "--seed"};
  const auto model_of = [&](const std::string& seed) {
    std::vector<std::string> arguments = sizes;
    arguments.push_back(seed);
    return mpc::Model::load(zoo_model(folder, "gpt2", arguments));
  };
  const auto plan_of = [](const mpc::Model& model, const std::string& precision) {
    mpc::CompileOptions options;
    options.precision = precision;
    return mpc::compile(model, mpc::Cluster::devices("cpu:2"), options).value();
  };
  const mpc::Model other_model = model_of("2");
  mpc::Session other(plan_of(other_model, "bf16"), other_model);
  const mpc::Model model = model_of("1");
  const mpc::Session exact(plan_of(model, "f32"), model);
  mpc::Session session(plan_of(model, "bf16"), model);
  CHECK(session.plan().json().find("\"recipe\"") != std::string::npos);
  REQUIRE(session.parameters().size() == exact.parameters().size());
  for (const mpc::ParameterInfo& info : exact.parameters()) {
    CAPTURE(info.name);
    const mpc::Tensor weights = exact.parameter(info.name);
    other.set_parameter(info.name, weights);
    CHECK(other.parameter(info.name) == session.parameter(info.name));
    CHECK(other.parameter(info.name).shape == weights.shape);
  }
  const auto logits = [](mpc::Session& of) {
    for (const mpc::TensorInfo& input : of.plan().inputs())
      of.bind(input.name, mpc::random_tensor(input.dtype, input.shape, 1, input.name, input.bound));
    of.step();
    return of.output(of.plan().outputs().front().name);
  };
  CHECK(logits(other) == logits(session));
}

TEST_CASE("library: what is bound must fit, and a refused tensor leaves the one before in place") {
  const TemporaryFolder folder;
  const mpc::Model model = mpc::Model::load(zoo_model(folder, "tiny-linear"));
  mpc::Session session(mpc::compile(model, mpc::Cluster::devices("cpu:1")).value(), model);
  CHECK(error_id([&] { session.step(); }) == "M004");
  session.bind("x", mpc::random_tensor(mpc::DType::f32, {32, 10}, 1, "x"));
  session.step();
  const mpc::Tensor y = session.output("y");
  CHECK(error_id([&] { session.bind("x", mpc::Tensor::zeros(mpc::DType::f32, {31, 10})); }) == "M004");
  CHECK(error_id([&] { session.bind("x", mpc::Tensor::zeros(mpc::DType::f64, {32, 10})); }) == "M004");
  CHECK(error_id([&] { session.bind("z", mpc::Tensor::zeros(mpc::DType::f32, {32, 10})); }) == "M004");
  session.step();
  CHECK(session.output("y") == y);
  CHECK(error_id([&] { session.output("z"); }) == "M002");
  CHECK(error_id([&] { session.trace_json(); }) == "M046");
}

TEST_CASE("library: the fast kernels agree with the reference kernels, and every node says which it has") {
  const TemporaryFolder folder;
  const mpc::Model model = mpc::Model::load(zoo_model(folder, "cnn-classifier-32"));
  const mpc::Plan plan = mpc::compile(model, mpc::Cluster::devices("cpu:2")).value();
  const auto output = [&](bool use_reference) {
    mpc::SessionOptions options;
    options.use_reference = use_reference;
    mpc::Session session(plan, model, options);
    session.bind("x", mpc::random_tensor(mpc::DType::f32, plan.inputs().front().shape, 1, "x"));
    session.step();
    for (const mpc::KernelInfo& kernel : session.kernels()) CHECK(use_reference == (kernel.kernel == "reference"));
    return session.output("y");
  };
  // f32 sums of 4096 products against sums in double: relative 1e-4 of values of the size of one
  CHECK(mpc::compare(output(false), output(true), 1e-4, 1e-5).is_equal);
}

TEST_CASE("library: a plan is a file and runs like the plan it was written from") {
  const TemporaryFolder folder;
  const mpc::Model model = mpc::Model::load(zoo_model(folder, "branches"));
  const mpc::Plan plan = mpc::compile(model, mpc::Cluster::devices("cpu:3")).value();
  plan.save(folder / "plan.json");
  const mpc::Plan read = mpc::Plan::load(folder / "plan.json");
  CHECK(read.json() == plan.json());
  CHECK(read.assignment() == plan.assignment());
  const mpc::Model other = mpc::Model::load(zoo_model(folder, "tiny-linear"));
  CHECK(error_id([&] { mpc::Session session(read, other); }) == "M062");
}

TEST_CASE("library: tensors convert, compare and are cut into rows") {
  const mpc::Tensor numbers = mpc::Tensor::from<int64_t>({3, 2}, {1, 2, 3, 4, 5, 6});
  CHECK(numbers.converted(mpc::DType::f32).as<float>() == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(mpc::take_rows(numbers, std::vector<int64_t>{2, 0}).as<int64_t>() == std::vector<int64_t>{5, 6, 1, 2});
  CHECK(error_id([&] { mpc::take_rows(numbers, std::vector<int64_t>{3}); }) == "M004");
  CHECK(error_id([&] { numbers.as<float>(); }) == "M004");
  CHECK(error_id([] { mpc::Tensor::from<float>({2, 2}, {1, 2, 3}); }) == "M004");
  CHECK(numbers.reshaped({2, 3}).shape == std::vector<int64_t>{2, 3});
  const float nan = std::nanf("");
  const mpc::Tensor a = mpc::Tensor::from<float>({3}, {1, nan, 3});
  CHECK(mpc::compare(a, a, 0, 0).is_equal);
  const mpc::Difference difference = mpc::compare(mpc::Tensor::from<float>({3}, {1, nan, 3.5f}), a, 0.1, 0);
  CHECK(!difference.is_equal);
  CHECK(difference.mismatches == 1);
  CHECK(difference.first_mismatch == "[2]: 3.5, expected 3");
  CHECK(difference.max_abs_error == 0.5);
}

TEST_CASE("library: shuffling visits every row once, in an order that depends on seed and epoch") {
  std::vector<int64_t> order = mpc::shuffled_rows(1000, 7, 0);
  CHECK(order == mpc::shuffled_rows(1000, 7, 0));
  CHECK(order != mpc::shuffled_rows(1000, 7, 1));
  CHECK(order != mpc::shuffled_rows(1000, 8, 0));
  std::ranges::sort(order);
  for (int64_t row = 0; row < 1000; ++row) CHECK(order[static_cast<size_t>(row)] == row);
}
