// Rows S-O, S-P, S-R and S-S: branches, many small values, values that skip devices, a weight that two devices read.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>

#include "tests/acceptance/rows.h"

namespace mpc::test {
namespace {

const std::vector<std::pair<std::string, int>> kBranches = {
    {"branch_a/", 0}, {"branch_b/", 1}, {"join/", 2}, {"loss/", 2}};
constexpr int64_t kBranchBytes = 65'536;  // 64 rows of 256 f32

/// The nodes of the forward phase, or of the backward phases.
std::vector<TimelineEntry> phase_of(const Plan& plan, const Timeline& timeline, bool is_forward) {
  std::vector<TimelineEntry> entries;
  for (const TimelineEntry& entry : timeline.entries) {
    const Instruction& instruction = plan.instructions[entry.instruction];
    if (instruction.action != Action::run) continue;
    const PlanPhase phase = plan.nodes[instruction.index].phase;
    if (phase != PlanPhase::update && (phase == PlanPhase::forward) == is_forward) entries.push_back(entry);
  }
  return entries;
}

TEST_CASE("S-O: two branches on two devices run at the same time, forward and backward, in one micro-batch") {
  const ZooModel model("branches");
  for (const int join : {2, 0}) {
    INFO("join on device ", join);
    std::vector<std::pair<std::string, int>> pins = kBranches;
    pins[2].second = pins[3].second = join;
    const Plan plan = check_same_as_one_device(model, 3, training(pins, LossKind::cross_entropy, "sgd,lr=0.01"), 2);
    const Timeline timeline = simulate(plan);
    for (const bool is_forward : {true, false}) {
      INFO("forward: ", is_forward);
      std::vector<TimelineEntry> entries = phase_of(plan, timeline, is_forward);
      // The joining device's other nodes are no part of a branch.
      std::erase_if(entries, [&](const TimelineEntry& entry) {
        return !plan.nodes[plan.instructions[entry.instruction].index].origin.starts_with("branch_");
      });
      const double shorter = std::min(busy_s(plan, entries, 0), busy_s(plan, entries, 1));
      CHECK(shorter > 0);
      CHECK(overlap_s(plan, entries, 0, 1) >= 0.9 * shorter);
    }
  }
}

/// Seconds in which some device works on each of the branches, and in which some do on both.
struct BranchTimes {
  double a_s = 0;
  double b_s = 0;
  double both_s = 0;
};
BranchTimes branch_times(const Plan& plan, const std::vector<TimelineEntry>& entries) {
  std::map<double, std::pair<int, int>> changes;  // by moment: how many more entries of each branch run from then on
  for (const TimelineEntry& entry : entries) {
    const std::string& origin = plan.nodes[plan.instructions[entry.instruction].index].origin;
    if (!origin.starts_with("branch_")) continue;
    const bool is_a = origin.starts_with("branch_a/");
    for (const auto& [moment, more] : {std::pair(entry.start_s, 1), std::pair(entry.end_s, -1)}) {
      changes[moment].first += is_a ? more : 0;
      changes[moment].second += is_a ? 0 : more;
    }
  }
  BranchTimes times;
  int of_a = 0, of_b = 0;
  for (auto it = changes.begin(); it != changes.end() && std::next(it) != changes.end(); ++it) {
    of_a += it->second.first;
    of_b += it->second.second;
    const double seconds = std::next(it)->first - it->first;
    times.a_s += of_a > 0 ? seconds : 0;
    times.b_s += of_b > 0 ? seconds : 0;
    times.both_s += of_a > 0 && of_b > 0 ? seconds : 0;
  }
  return times;
}

TEST_CASE("S-O: without pins a search for latency lets the branches run at the same time") {
  const ZooModel model("branches");
  const double pinned_s =
      simulate(check_same_as_one_device(model, 3, training(kBranches, LossKind::cross_entropy, "sgd,lr=0.01"), 2))
          .step_seconds;
  for (const int devices : {2, 3}) {
    INFO(devices, " devices");
    PlanOptions options = training({}, LossKind::cross_entropy, "sgd,lr=0.01");
    options.objective = Objective::latency;
    const Plan plan = check_same_as_one_device(model, devices, options, 2);
    const Timeline timeline = simulate(plan);
    if (devices == 3) CHECK(timeline.step_seconds <= pinned_s);
    for (const bool is_forward : {true, false}) {
      INFO("forward: ", is_forward);
      const BranchTimes times = branch_times(plan, phase_of(plan, timeline, is_forward));
      CHECK(std::min(times.a_s, times.b_s) > 0);
      CHECK(times.both_s >= 0.9 * std::min(times.a_s, times.b_s));
    }
    if (devices > 2) continue;  // with more of them it pays to cut the branches, too
    std::map<std::string, std::set<int>> devices_of_branch;
    for (const PlanNode& node : plan.nodes) {
      if (node.origin.starts_with("branch_")) devices_of_branch[node.origin.substr(0, 8)].insert(node.device.index());
    }
    REQUIRE(devices_of_branch.size() == 2);
    CHECK(devices_of_branch["branch_a"].size() == 1);
    CHECK(devices_of_branch["branch_b"].size() == 1);
    CHECK(devices_of_branch["branch_a"] != devices_of_branch["branch_b"]);
  }
}

TEST_CASE("S-O: x goes once to each branch, and each branch sends its result once and receives its gradient once") {
  const ZooModel model("branches");
  const Plan plan = plan_of(model, 3, training(kBranches, LossKind::cross_entropy, "sgd,lr=0.01"));
  CHECK(fed_bytes(plan, "x", 0) == kBranchBytes);
  CHECK(fed_bytes(plan, "x", 1) == kBranchBytes);
  CHECK(fed_bytes(plan, "x", 2) == 0);
  std::vector<Sent> sent = sent_in_a_step(plan);
  INFO(to_text(sent));
  CHECK(sent.size() == 4);
  for (const Sent& expected : {Sent{0, 2, kBranchBytes, false}, Sent{1, 2, kBranchBytes, false},
                               Sent{2, 0, kBranchBytes, true}, Sent{2, 1, kBranchBytes, true}}) {
    CHECK(std::ranges::count(sent, expected) == 1);
  }
}

TEST_CASE("S-P: eight small values cross the cut in one transfer, the one with five readers among them once") {
  const ZooModel model("many-small");
  const Plan plan = check_same_as_one_device(model, 2, pinned({{"front/", 0}, {"back/", 1}}), 1);
  REQUIRE(plan.transfers.size() == 1);
  const PlanTransfer& transfer = plan.transfers[0];
  CHECK(transfer.sources.size() == 8);
  CHECK(sent_in_a_step(plan)[0].bytes == 8 * plan.batch * 8 * 4);
  const auto readers = [&](PlanIndex value) {
    return std::ranges::count_if(plan.nodes,
                                 [&](const PlanNode& node) { return std::ranges::count(node.inputs, value) > 0; });
  };
  CHECK(std::ranges::count_if(transfer.destinations, [&](PlanIndex value) { return readers(value) == 5; }) == 1);
}

TEST_CASE(
    "S-P: a cheap op whose operand is sent anyway is offered to run behind the cut, and then seven values are sent") {
  const ZooModel model("many-small");
  const std::vector<std::pair<std::string, int>> parts = {{"front/", 0}, {"back/", 1}};
  const Plan plan = plan_of(model, 2, pinned(parts));
  const auto offer = std::ranges::find_if(
      plan.notes, [](const std::string& note) { return note.find("--pin '^front/Relu") != std::string::npos; });
  REQUIRE(offer != plan.notes.end());
  INFO(*offer);
  CHECK(offer->find(std::to_string(plan.batch * 8 * 4) + " bytes less") != std::string::npos);
  // What the note says, done.
  const size_t begin = offer->find('^');
  const std::string pattern = offer->substr(begin, offer->find('=', begin) - begin);
  PlanOptions options = pinned(parts);
  options.pins.insert(options.pins.begin(), {pattern, 1});
  const Plan cheaper = check_same_as_one_device(model, 2, options, 1);
  REQUIRE(cheaper.transfers.size() == 1);
  CHECK(cheaper.transfers[0].sources.size() == 7);
  CHECK(sent_in_a_step(cheaper)[0].bytes == 7 * plan.batch * 8 * 4);
}

TEST_CASE("S-R: a value that skips two stages is sent once to each stage that reads it, and its gradients come back") {
  const ZooModel model("residual-cut");
  const std::vector<std::pair<std::string, int>> stages = {
      {"stage0/", 0}, {"stage1/", 1}, {"stage2/", 2}, {"stage3/", 3}, {"loss/", 3}};
  for (const int microbatches : {1, 4}) {
    INFO(microbatches, " micro-batches");
    PlanOptions options = training(stages, LossKind::cross_entropy, "momentum,lr=0.01");
    options.microbatches = microbatches;
    options.schedule = ScheduleKind::one_f_one_b;
    const Plan plan = check_same_as_one_device(model, 4, options, 3);
    const int64_t bytes = plan.batch * 64 * 4;
    std::vector<Sent> sent = sent_in_a_step(plan);
    INFO(to_text(sent));
    // stem to three stages, stage1 to 2, stage2 to 3.
    for (const Sent& expected : {Sent{0, 1, bytes, false}, Sent{0, 2, bytes, false}, Sent{0, 3, bytes, false},
                                 Sent{1, 2, bytes, false}, Sent{2, 3, bytes, false}}) {
      CHECK(std::ranges::count(sent, expected) == 1);
    }
    CHECK(std::ranges::count(sent, false, &Sent::is_backward) == 5);
    CHECK(std::ranges::any_of(sent, [](const Sent& s) { return s.is_backward && s.to == 0; }));
  }
}

TEST_CASE("S-R: a residual block cut in its middle gives the bits of one device") {
  const ZooModel model("residual-cut");
  check_same_as_one_device(
      model, 2,
      training({{"stage[01]/", 0}, {"stage[23]/", 1}, {"loss/", 1}}, LossKind::cross_entropy, "momentum,lr=0.01"), 3);
}

TEST_CASE("S-S: a weight that two devices read is updated once, from the sum of both gradients, and stays one weight") {
  const ZooModel model("tied-embedding");
  for (const double clip_norm : {0.0, 0.05}) {
    INFO("clip norm ", clip_norm);
    PlanOptions options =
        training({{"embed/", 0}, {"body/", 0}, {"head/", 1}, {"loss/", 1}}, LossKind::cross_entropy, "adam,lr=0.01");
    options.optimizer.clip_norm = clip_norm;
    const Plan plan = check_same_as_one_device(model, 2, options, 4, 8);
    const auto is_table = [&](PlanIndex value) { return plan.values[value].source == "embed/weight"; };
    CHECK(std::ranges::count_if(plan.updates, [&](const PlanUpdate& update) { return is_table(update.persistent); }) ==
          1);
    CHECK(std::ranges::count_if(plan.gradients,
                                [&](const PlanGradient& gradient) { return is_table(gradient.parameter); }) == 1);
    CHECK(std::ranges::count_if(plan.values, [&](const PlanValue& value) {
            return value.source == "embed/weight" && value.kind == PlanValueKind::parameter;
          }) == 1);
    // The other device reads a copy that is sent in every step.
    CHECK(std::ranges::count_if(plan.transfers, [&](const PlanTransfer& transfer) {
            return transfer.per_step && std::ranges::any_of(transfer.sources, is_table);
          }) == 1);
  }
}

TEST_CASE("S-S: inference keeps the table on both devices that read it, and no step sends any of it") {
  const ZooModel model("tied-embedding");
  const std::vector<std::pair<std::string, int>> parts = {{"embed/", 0}, {"body/", 0}, {"head/", 1}};
  const Plan plan = check_same_as_one_device(model, 2, pinned(parts), 2, 8);
  CHECK(devices_holding(plan, "embed/weight") == std::vector<int>{0, 1});
  CHECK(std::ranges::none_of(plan.transfers, &PlanTransfer::per_step));
  // Unpinned, what rearranges the table for the output layer goes where the output layer is.
  const Plan free = check_same_as_one_device(model, 3, pinned({}), 2, 8);
  CHECK(std::ranges::none_of(free.transfers, &PlanTransfer::per_step));
}

TEST_CASE("S-S: clipping counts the tied weight's gradient once") {
  const ZooModel model("tied-embedding");
  const std::vector<std::pair<std::string, int>> pins = {{"embed/", 0}, {"body/", 0}, {"head/", 1}, {"loss/", 1}};
  const PlanOptions free = training(pins, LossKind::cross_entropy, "sgd,lr=1");
  const Plan plan = plan_of(model, 2, free);
  const Outcome outcome = run(model, plan, 1, 8);
  double squares = 0;
  for (const PlanGradient& gradient : plan.gradients) {
    const Literal& tensor = outcome.tensors.at("gradient of " + plan.values[gradient.parameter].name);
    for (int64_t i = 0; i < tensor.shape().elements(); ++i) squares += tensor.number(i) * tensor.number(i);
  }
  const double norm = std::sqrt(squares);
  // Half the norm as the bound halves every update. Had the table been counted twice, the factor would be smaller.
  PlanOptions clipped = free;
  clipped.optimizer.clip_norm = norm / 2;
  executor::Session session(plan_of(model, 2, clipped), model.model().weights(), poisoned());
  const Data data(session.plan(), 8);
  data.bind(session);
  executor::StepOptions no_update;
  no_update.update = false;
  session.step(no_update);
  const Literal before = session.read("embed/weight");
  session.update({});
  const Literal after = session.read("embed/weight");
  const Literal& gradient = outcome.tensors.at("gradient of embed/weight");
  double error = 0;
  double largest = 0;
  for (int64_t i = 0; i < before.shape().elements(); ++i) {
    largest = std::max(largest, std::abs(gradient.number(i)));
    error = std::max(error, std::abs((before.number(i) - after.number(i)) - gradient.number(i) / 2));
  }
  CHECK(largest > 0);
  // Weights below 1 are rounded to 6e-8 at each of the two reads; counting the table twice would be an error of several
  // percent.
  CHECK(error <= 1e-4 * largest + 1.2e-7);
}

}  // namespace
}  // namespace mpc::test
