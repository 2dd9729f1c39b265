#include "api/recency.h"

#include <doctest/doctest.h>

#include <utility>

namespace mpc::api {
namespace {

constexpr int64_t kMega = int64_t{1} << 20;

/// Steps on values of a mebibyte each, one after the other in memory.
class Steps {
 public:
  explicit Steps(PlanIndex values) {
    for (PlanIndex i = 0; i < values; ++i) {
      PlanSlice& slice = plan.slices.emplace_back();
      slice.value = i;
      slice.offset = static_cast<int64_t>(i) * kMega;
      slice.bytes = kMega;
    }
  }
  void run(PlanPhase phase, std::vector<PlanIndex> reads, std::vector<PlanIndex> writes) {
    PlanNode& node = plan.nodes.emplace_back();
    node.phase = phase;
    Instruction& instruction = plan.instructions.emplace_back();
    instruction.action = Action::run;
    instruction.index = static_cast<PlanIndex>(plan.nodes.size()) - 1;
    instruction.reads = std::move(reads);
    instruction.writes = std::move(writes);
  }

  Plan plan;
};

using Cold = std::vector<std::vector<bool>>;

TEST_CASE("recency: what the last nodes of the same pass used is in the cache") {
  Steps steps(6);  // 0 input, 1 weight, 2 and 3 activations, 4 gradient, 5 gradient of the weight
  steps.run(PlanPhase::forward, {0, 1}, {2});
  steps.run(PlanPhase::forward, {2}, {3});
  steps.run(PlanPhase::input_grad, {3, 2}, {4});
  steps.run(PlanPhase::weight_grad, {4, 0}, {5});
  steps.run(PlanPhase::weight_grad, {5, kNone}, {5});
  steps.run(PlanPhase::update, {1, 5}, {1});
  const Cold cold = cold_operands(steps.plan, 64 * kMega);
  REQUIRE(cold.size() == 6);
  CHECK(cold[0] == std::vector<bool>{true, true, true});    // nothing was used yet
  CHECK(cold[1] == std::vector<bool>{false, true});         // made by the node before
  CHECK(cold[2] == std::vector<bool>{true, true, true});    // kept from the forward pass
  CHECK(cold[3] == std::vector<bool>{false, true, true});   // the gradient was just made
  CHECK(cold[4] == std::vector<bool>{false, true, false});  // the sum is of the last micro-batch
  CHECK(cold[5] == std::vector<bool>{true, true, true});    // updates end a step
}

TEST_CASE("recency: what was used longest ago is dropped when the cache is full") {
  Steps steps(4);
  for (const PlanIndex value : {0U, 1U, 2U, 0U, 3U, 1U, 0U}) steps.run(PlanPhase::forward, {value}, {});
  CHECK(cold_operands(steps.plan, 3 * kMega) == Cold{{true}, {true}, {true}, {false}, {true}, {true}, {false}});
  CHECK(cold_operands(steps.plan, 0) == Cold{{true}, {true}, {true}, {true}, {true}, {true}, {true}});
}

}  // namespace
}  // namespace mpc::api
