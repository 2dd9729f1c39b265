#include "executor/host/lane_order.h"

#include <doctest/doctest.h>

#include <memory>
#include <set>
#include <vector>

#include "tests/exec/models.h"

namespace mpc::executor {
namespace {

/// A device that sends what it made, while it works on: event 0 says that the receiver has room, event 1 that it was
/// sent.
Plan sender() {
  Plan plan;
  plan.queues.resize(3);
  constexpr PlanIndex kCompute = 0;
  constexpr PlanIndex kSend = 1;
  constexpr PlanIndex kRecv = 2;
  const auto add = [&](Action action, PlanIndex queue, PlanIndex index) {
    Instruction& instruction = plan.instructions.emplace_back();
    instruction.action = action;
    instruction.queue = queue;
    instruction.index = index;
  };
  add(Action::run, kCompute, 0);
  add(Action::wait, kRecv, 0);
  add(Action::send, kSend, 0);
  add(Action::recv, kRecv, 0);
  add(Action::record, kSend, 1);
  add(Action::run, kCompute, 1);
  plan.event_count = 2;
  return plan;
}

std::vector<PlanIndex> all_that_may_run(LaneOrder& order, const std::set<PlanIndex>& recorded) {
  std::vector<PlanIndex> taken;
  for (;;) {
    const PlanIndex next = order.next([&](PlanIndex event) { return recorded.contains(event); });
    if (next == kNone) return taken;
    order.take(next);
    taken.push_back(next);
  }
}

TEST_CASE("lane order: a transfer that waits for room does not hold up the sender's work") {
  const Plan plan = sender();
  LaneOrder order(plan, {{0, 1, 2}});
  CHECK(all_that_may_run(order, {}) == std::vector<PlanIndex>{0, 5});
  CHECK_FALSE(order.is_done());
  CHECK(order.heads() == std::vector<PlanIndex>{2, 1});  // the send keeps its place: its recv cannot follow
  CHECK(all_that_may_run(order, {0}) == std::vector<PlanIndex>{1, 2, 3, 4});
  CHECK(order.is_done());
}

TEST_CASE("lane order: where nothing waits, the order is the plan's, in every step") {
  const Plan plan = sender();
  LaneOrder order(plan, {{0, 1, 2}});
  for (int step = 0; step < 2; ++step) {
    CHECK(all_that_may_run(order, {0}) == std::vector<PlanIndex>{0, 1, 2, 3, 4, 5});
    order.restart();
  }
}

TEST_CASE("lane order: a lane has nothing to do with the queues of others") {
  const Plan plan = sender();
  LaneOrder order(plan, {{0}});
  CHECK(all_that_may_run(order, {}) == std::vector<PlanIndex>{0, 5});
  CHECK(order.is_done());
}

TEST_CASE("lane order: lanes that take turns as they can finish every plan") {
  for (const int cores : {3, 64}) {
    const Plan plan = test::training_plan(test::kThreeDevices, {4, 8, 2});
    std::vector<LaneQueues> lanes = divide_into_lanes(plan, {.merges_serial = false, .cores = cores});
    std::vector<std::unique_ptr<LaneOrder>> orders;
    for (const LaneQueues& lane : lanes) orders.push_back(std::make_unique<LaneOrder>(plan, lane));
    std::set<PlanIndex> recorded;
    size_t count = 0;
    for (bool has_moved = true; has_moved;) {
      has_moved = false;
      for (auto& order : orders) {
        const PlanIndex next = order->next([&](PlanIndex event) { return recorded.contains(event); });
        if (next == kNone) continue;
        if (plan.instructions[next].action == Action::record) recorded.insert(plan.instructions[next].index);
        order->take(next);
        ++count;
        has_moved = true;
      }
    }
    CHECK(count == plan.instructions.size());
  }
}

}  // namespace
}  // namespace mpc::executor
