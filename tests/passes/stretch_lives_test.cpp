#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "passes/order_queues.h"
#include "passes/stretch_lives.h"
#include "tests/plans/plan_fixture.h"

namespace {

using namespace mpc;

// h = Gemm(x) on cpu:0, copied to cpu:1, y = Gemm(h) there, for two micro-batches:
//   0 feed 1 run 2 send 3 recv 4 run 5 fetch, and the same again as 6 to 11. Every slice has bytes of its own.
Plan unordered_plan() {
  Plan plan = test::inference_plan();
  std::erase_if(plan.instructions,
                [](const Instruction& i) { return i.action == Action::record || i.action == Action::wait; });
  return plan;
}

constexpr int64_t kAnything = 1 << 20;

struct Case {
  const char* what;
  int device;
  int64_t begin, end;
  int64_t expected_begin, expected_end;
};

}  // namespace

TEST_CASE("stretch_lives: what links write and read is kept apart from what the device works on") {
  const Plan plan = unordered_plan();
  const QueueOrder order = order_queues(plan);
  const Case cases[] = {
      {"received before the device has done anything", 1, 3, 4, 3, 4},
      // cpu:0 hears nothing from cpu:1, so the second copy cannot know that run 4 is done.
      {"received while the device may be at work", 1, 9, 10, 4, 10},
      {"sent, with another send of the link to come", 0, 1, 3, 1, 8},
      {"sent last", 0, 7, 9, 7, 11},
      {"made and read by the device alone", 1, 4, 5, 4, 5},
  };
  for (const Case& c : cases) {
    CAPTURE(c.what);
    std::vector<Block> blocks = {{256, c.begin, c.end}};
    stretch_lives(plan, order, DeviceId(c.device), kAnything, blocks);
    CHECK(blocks[0].begin == c.expected_begin);
    CHECK(blocks[0].end == c.expected_end);
  }
}

TEST_CASE("stretch_lives: a life grows only into moments that have room") {
  const Plan plan = unordered_plan();
  const QueueOrder order = order_queues(plan);
  // At 5 and 6 the other block leaves 255 bytes, one less than what is received needs.
  std::vector<Block> blocks = {{256, 9, 10}, {1793, 5, 6}};
  stretch_lives(plan, order, DeviceId(1), 2048, blocks);
  CHECK(blocks[0].begin == 7);
  CHECK(blocks[1].begin == 5);
  CHECK(largest_live(blocks).bytes <= 2048);
}

TEST_CASE("order_queues: without shared bytes only data makes queues wait") {
  const Plan plan = unordered_plan();
  // Per micro-batch: the send waits for its Gemm, the next Gemm for the recv.
  CHECK(order_queues(plan).event_count == 4);
  Plan shared = plan;
  const auto slice_of_run = [&](size_t i) { return shared.instructions[i].writes[0]; };
  shared.slices[slice_of_run(7)].offset = shared.slices[slice_of_run(1)].offset;  // the second h over the first
  CHECK(order_queues(shared).event_count == 5);                                   // and that waits for the first send
}
