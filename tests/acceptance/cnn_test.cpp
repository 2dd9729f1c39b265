// Rows S-H and S-I: a convolutional classifier, as printed and mended.

#include <doctest/doctest.h>

#include <algorithm>

#include "tests/acceptance/rows.h"

namespace mpc::test {
namespace {

const std::vector<std::pair<std::string, int>> kParts = {{"features/", 0}, {"classifier/", 1}, {"loss/", 1}};
const std::vector<std::pair<std::string, int>> kForwardParts = {{"features/", 0}, {"classifier/", 1}};

/// An Adam for each part, with rates of their own.
PlanOptions two_adams(const std::vector<std::pair<std::string, int>>& pins) {
  PlanOptions options = training(pins, LossKind::cross_entropy, "sgd,lr=1");
  options.optimizer.groups = {{"features/.*", parse_optimizer("adam,lr=0.001")},
                              {"classifier/.*", parse_optimizer("adam,lr=0.001")}};
  return options;
}

TEST_CASE("S-H: the classifier as printed is refused before anything is planned, with its node and both sizes") {
  const ZooModel model("cnn-classifier-broken");
  const auto error = error_of([&] { (void)try_plan(model, cpu_devices(2), pinned(kForwardParts)); });
  REQUIRE(error);
  const std::string text = error->what();
  INFO(text);
  CHECK(error->code() == 3);
  CHECK(text.find("classifier/fc") != std::string::npos);
  CHECK(text.find("16384") != std::string::npos);
  CHECK(text.find("4096") != std::string::npos);
  CHECK(text.find("B with 16384 rows") != std::string::npos);
  CHECK(text.find("an input \"x\" of 32x32 instead of 64x64 fits") != std::string::npos);
}

struct Sizes {
  const char* model;
  int64_t crossing_bytes;
  int64_t conv_result_bytes;
  int64_t classifier_parameters;
};
constexpr Sizes kSizes[] = {{"cnn-classifier", 4'194'304, 16'777'216, 163'850},
                            {"cnn-classifier-32", 1'048'576, 4'194'304, 40'970}};

TEST_CASE("S-I: the pooled features cross once each way, labels go to the classifier, and the bits are one device's") {
  for (const Sizes& sizes : kSizes) {
    INFO(sizes.model);
    const ZooModel model(sizes.model);
    const Plan plan = check_same_as_one_device(model, 2, two_adams(kParts), 2);
    INFO(to_text(sent_in_a_step(plan)));
    CHECK(sent_in_a_step(plan) ==
          std::vector<Sent>{{0, 1, sizes.crossing_bytes, false}, {1, 0, sizes.crossing_bytes, true}});
    CHECK(fed_bytes(plan, "labels", 0) == 0);
    CHECK(fed_bytes(plan, "labels", 1) == 512);
    CHECK(fed_bytes(plan, "x", 1) == 0);
    CHECK(plan.devices[0].memory.parameter_bytes == 448 * 4);
    CHECK(plan.devices[1].memory.parameter_bytes == sizes.classifier_parameters * 4);
    CHECK(plan.devices[0].memory.optimizer_bytes == 448 * 8);
    CHECK(plan.devices[1].memory.optimizer_bytes == sizes.classifier_parameters * 8);
  }
}

TEST_CASE("S-I: the images need no gradient, so the convolution's input gradient is not built") {
  const ZooModel model("cnn-classifier-32");
  const Plan plan = plan_of(model, 2, two_adams(kParts));
  int weight_gradients = 0;
  for (const PlanNode& node : plan.nodes) {
    if (!node.origin.starts_with("features/conv")) continue;
    INFO(node.name);
    CHECK(node.phase != PlanPhase::input_grad);
    weight_gradients += node.phase == PlanPhase::weight_grad ? 1 : 0;
  }
  CHECK(weight_gradients > 0);
}

TEST_CASE(
    "S-I: when one device cannot hold the model, the planner cuts after the pooling, where the least bytes cross") {
  for (const Sizes& sizes : kSizes) {
    INFO(sizes.model);
    const ZooModel model(sizes.model);
    for (const bool train : {false, true}) {
      INFO("training: ", train);
      PlanOptions options = train ? two_adams({}) : PlanOptions{};
      options.objective = Objective::latency;
      // `auto` would find an order that needs less, and activations could be computed again or wait: then one device
      // does.
      options.schedule = ScheduleKind::one_f_one_b;
      options.may_recompute = false;
      options.may_offload = false;
      const int64_t whole_bytes = plan_of(model, 1, options).devices[0].arena_bytes;
      const Plan plan = plan_of(model, cpu_devices(2, std::to_string(whole_bytes - 1)), options);
      INFO(whole_bytes, " bytes on one device; ", plan.devices[0].arena_bytes, " and ", plan.devices[1].arena_bytes,
           " on two\n", to_text(sent_in_a_step(plan)));
      const int features = device_of(plan, "features/conv/Conv");
      CHECK(device_of(plan, "features/MaxPool") == features);
      CHECK(device_of(plan, "classifier/fc/Gemm") != features);
      for (const Sent& sent : sent_in_a_step(plan)) CHECK(sent.bytes == sizes.crossing_bytes);
      CHECK(sent_in_a_step(plan).size() == (train ? 2 : 1));
    }
  }
}

TEST_CASE("S-I: each part's Adam has a learning rate of its own") {
  const ZooModel model("cnn-classifier-32");
  PlanOptions slow = two_adams(kParts);
  PlanOptions fast = two_adams(kParts);
  fast.optimizer.groups[1].optimizer.learning_rate = 0.01;
  const Outcome a = run(model, plan_of(model, 2, slow), 1);
  const Outcome b = run(model, plan_of(model, 2, fast), 1);
  const auto differ = [&](const std::string& name) {
    REQUIRE(a.tensors.count(name) == 1);
    return a.tensors.at(name) != b.tensors.at(name);
  };
  CHECK_FALSE(differ("features/conv/weight"));
  CHECK(differ("classifier/fc/weight"));
}

TEST_CASE("S-I: a step lowers the loss of the same batch") {
  for (const Sizes& sizes : kSizes) {
    INFO(sizes.model);
    const ZooModel model(sizes.model);
    // Labels of two of the ten classes: Adam's first step moves every weight by its whole rate, which on noise with
    // evenly mixed labels may overshoot in any framework.
    const Outcome outcome = run(model, plan_of(model, 2, two_adams(kParts)), 2, 2);
    CHECK(outcome.losses[1] < outcome.losses[0]);
  }
}

}  // namespace
}  // namespace mpc::test
