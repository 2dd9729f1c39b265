// Rows S-J, S-K, S-L and S-U: an encoder, a decoder and a classifier over sequences.

#include <doctest/doctest.h>

#include <algorithm>

#include "tests/acceptance/rows.h"

namespace mpc::test {
namespace {

const std::vector<std::pair<std::string, int>> kParts = {
    {"encoder/", 0}, {"decoder/", 1}, {"classifier/", 2}, {"loss/", 2}};

/// An Adam for each of the three parts.
PlanOptions three_adams(const std::vector<std::pair<std::string, int>>& pins) {
  PlanOptions options = training(pins, LossKind::cross_entropy, "sgd,lr=1");
  for (const char* part : {"encoder/.*", "decoder/.*", "classifier/.*"})
    options.optimizer.groups.push_back({part, parse_optimizer("adam,lr=0.001")});
  return options;
}

TEST_CASE("S-J: encoder, decoder and classifier exchange their sequences and keep their optimizer state apart") {
  const ZooModel model("encoder-decoder");
  const Plan plan = check_same_as_one_device(model, 3, three_adams(kParts), 3);
  INFO(to_text(sent_in_a_step(plan)));
  // h_n and c_n of both LSTMs would be more transfers than these.
  CHECK(sent_in_a_step(plan) ==
        std::vector<Sent>{{0, 1, 163'840, false}, {1, 2, 81'920, false}, {2, 1, 81'920, true}, {1, 0, 163'840, true}});
  CHECK(fed_bytes(plan, "ids", 0) == 5'120);
  CHECK(fed_bytes(plan, "ids", 1) + fed_bytes(plan, "ids", 2) == 0);
  CHECK(fed_bytes(plan, "labels", 2) == 256);
  CHECK(fed_bytes(plan, "labels", 0) + fed_bytes(plan, "labels", 1) == 0);
  CHECK(plan.devices[0].memory.optimizer_bytes == 226'304);
  CHECK(plan.devices[1].memory.optimizer_bytes == 282'880);
  CHECK(plan.devices[2].memory.optimizer_bytes == 2'640);
  int64_t parameter_bytes = 0;
  for (const PlanValue& value : plan.values) {
    if (value.kind == PlanValueKind::parameter) parameter_bytes += byte_size(value.shapes[0], value.dtype);
  }
  CHECK(parameter_bytes == 63'978 * 4);
}

TEST_CASE("S-J: the fast kernels' gradients agree with the reference kernels'") {
  const ZooModel model("encoder-decoder");
  const Plan plan = plan_of(model, 3, three_adams(kParts));
  const Data data(plan, 10);
  std::map<std::string, Literal> gradients[2];
  for (const bool is_reference : {false, true}) {
    executor::SessionOptions options = poisoned();
    if (is_reference) options.kernels = executor::KernelSet::reference;
    executor::Session session(plan, model.model().weights(), options);
    data.bind(session);
    session.step();
    for (const PlanGradient& gradient : plan.gradients) {
      const std::string& name = plan.values[gradient.parameter].name;
      gradients[is_reference ? 1 : 0][name] = session.gradient(name);
    }
  }
  for (const auto& [name, expected] : gradients[1]) {
    INFO(name);
    // The table's bound for f32 gradients: 1e-4, of the tensor's largest element.
    CHECK(largest_error(gradients[0].at(name), expected) <= 1e-4);
  }
}

TEST_CASE("S-K: without pins the mean over the sequence is taken before the cut, and the plan says what that saves") {
  const ZooModel model("encoder-decoder");
  const Plan plan = plan_of(model, 3, three_adams({}));
  INFO(to_text(sent_in_a_step(plan)));
  CHECK(device_of(plan, "classifier/ReduceMean") != device_of(plan, "classifier/fc/Gemm"));
  CHECK(device_of(plan, "classifier/ReduceMean") == device_of(plan, "decoder/linear/MatMul"));
  std::vector<Sent> into_classifier;
  for (const Sent& sent : sent_in_a_step(plan)) {
    if (sent.to == device_of(plan, "classifier/fc/Gemm")) into_classifier.push_back(sent);
  }
  REQUIRE(into_classifier.size() == 1);
  CHECK(into_classifier[0].bytes == 4'096);
  const bool is_told = std::ranges::any_of(plan.notes, [](const std::string& note) {
    return note.find("classifier/ReduceMean") != std::string::npos && note.find("81920") != std::string::npos &&
           note.find("4096") != std::string::npos;
  });
  CHECK(is_told);
}

TEST_CASE(
    "S-L: micro-batches in 1F1B over three unequal stages give the bits of one device, and the plan names the slowest "
    "stage") {
  const ZooModel model("encoder-decoder");
  for (const int microbatches : {1, 4, 8}) {
    INFO(microbatches, " micro-batches");
    PlanOptions options = three_adams(kParts);
    options.microbatches = microbatches;
    options.schedule = ScheduleKind::one_f_one_b;
    const Plan plan = check_same_as_one_device(model, 3, options, 2);
    const bool is_named = std::ranges::any_of(plan.notes, [](const std::string& note) {
      return note.find("bottleneck") != std::string::npos && note.find("cpu:1") != std::string::npos;
    });
    CHECK(is_named);
  }
}

TEST_CASE(
    "S-L: without pins all three devices get stages, micro-batches overlap, and the plan names the slowest stage") {
  const ZooModel model("encoder-decoder");
  for (const int microbatches : {4, 8}) {
    INFO(microbatches, " micro-batches");
    PlanOptions options = three_adams({});
    options.microbatches = microbatches;
    options.schedule = ScheduleKind::one_f_one_b;
    const Plan plan = check_same_as_one_device(model, 3, options, 2);
    CHECK(std::ranges::any_of(
        plan.notes, [](const std::string& note) { return note.find("is the bottleneck") != std::string::npos; }));
    const Timeline timeline = simulate(plan);
    CHECK(overlap_s(plan, timeline.entries, 0, 1) > 0);
    CHECK(overlap_s(plan, timeline.entries, 1, 2) > 0);
    CHECK(plan.objective_value <= 1.05 * plan.objective_lower_bound);
  }
}

TEST_CASE("S-U: sequences of 20 and 37 tokens alternate, each with the bits of one device") {
  const ZooModel model("encoder-decoder", {{"sequence", 0}});
  Outcome first;
  for (const int64_t sequence : {20, 37, 20, 37}) {
    INFO(sequence, " tokens");
    PlanOptions options = three_adams(kParts);
    options.dims["sequence"] = sequence;
    const Plan plan = check_same_as_one_device(model, 3, options, 1);
    CHECK(sent_in_a_step(plan)[0].bytes == 32 * sequence * 64 * 4);
    const Outcome outcome = run(model, plan, 1);
    if (sequence == 20 && first.losses.empty()) first = outcome;
    if (sequence == 20) check_same_bits(first, outcome);
  }
}

}  // namespace
}  // namespace mpc::test
