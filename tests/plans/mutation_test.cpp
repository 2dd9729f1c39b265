#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "compiler/base/error.h"
#include "compiler/plan/check.h"
#include "tests/plans/plan_fixture.h"
#include "tests/support/dice.h"

// Plans with one field changed at random. Every kind of change here makes every plan of the fixture wrong, so the
// checker must refuse all of them.

namespace mpc {
namespace {

constexpr uint32_t kSeeds = 400;

class PlanDice : public test::Dice {
 public:
  using Dice::Dice;
  /// A number in [0, count) that is not `other`.
  PlanIndex other(size_t count, PlanIndex other) {
    const auto index = static_cast<PlanIndex>(below(count - 1));
    return index >= other ? index + 1 : index;
  }
  double bad_cost() {
    constexpr std::array<double, 4> kBad = {std::numeric_limits<double>::quiet_NaN(), -1, 1e308,
                                            std::numeric_limits<double>::infinity()};
    return kBad[below(kBad.size())];
  }
};

bool is_event(const Instruction& i) {
  return i.action == Action::record || i.action == Action::wait;
}

Instruction& pick_action(Plan& p, PlanDice& dice, const std::function<bool(const Instruction&)>& is_wanted) {
  for (;;) {
    Instruction& instruction = dice.pick(p.instructions);
    if (is_wanted(instruction)) return instruction;
  }
}

// A workspace may be larger than needed, and it belongs to no micro-batch.
PlanSlice& pick_value_slice(Plan& p, PlanDice& dice) {
  for (;;) {
    PlanSlice& slice = dice.pick(p.slices);
    if (slice.value != kNone) return slice;
  }
}

size_t table_count(const Plan& p, Action action) {
  switch (action) {
    case Action::run:
      return p.nodes.size();
    case Action::send:
    case Action::recv:
      return p.transfers.size();
    case Action::feed:
      return p.inputs.size();
    case Action::fetch:
      return p.outputs.size();
    default:
      return p.event_count;
  }
}

// The position of the instruction that writes a slice and of the last that reads it.
struct Life {
  size_t written = 0;
  size_t last_read = 0;
};

std::vector<std::optional<Life>> lives_of(const Plan& p) {
  std::vector<std::optional<Life>> lives(p.slices.size());
  for (size_t i = 0; i < p.instructions.size(); ++i) {
    for (const PlanIndex s : p.instructions[i].writes) {
      if (s != kNone && !lives[s]) lives[s] = Life{i, i};
    }
    for (const PlanIndex s : p.instructions[i].reads) {
      if (s != kNone && lives[s]) lives[s]->last_read = i;
    }
  }
  return lives;
}

// Puts a slice where another one lives that is read after this one was written.
bool overlap_live(Plan& p, PlanDice& dice) {
  const auto lives = lives_of(p);
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const size_t a = dice.below(p.slices.size());
    const size_t b = dice.below(p.slices.size());
    if (a == b || !lives[a] || !lives[b] || p.slices[a].device != p.slices[b].device) continue;
    if (lives[a]->written >= lives[b]->written || lives[a]->last_read <= lives[b]->written) continue;
    if (p.slices[a].offset == p.slices[b].offset) continue;
    p.slices[b].offset = p.slices[a].offset;
    return true;
  }
  return false;
}

// Moves an instruction that reads something before the one that writes it.
bool read_too_early(Plan& p, PlanDice& dice) {
  const auto lives = lives_of(p);
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const size_t reader = dice.below(p.instructions.size());
    if (p.instructions[reader].reads.empty()) continue;
    const PlanIndex slice = dice.pick(p.instructions[reader].reads);
    if (slice == kNone || !lives[slice] || lives[slice]->written >= reader) continue;
    const Instruction moved = p.instructions[reader];
    p.instructions.erase(p.instructions.begin() + static_cast<std::ptrdiff_t>(reader));
    p.instructions.insert(p.instructions.begin() + static_cast<std::ptrdiff_t>(lives[slice]->written), moved);
    return true;
  }
  return false;
}

struct Kind {
  std::string what;
  std::function<void(Plan&, PlanDice&)> apply;
};

std::vector<Kind> kinds() {
  using P = Plan&;
  using D = PlanDice&;
  const auto is_any = [](const Instruction&) { return true; };
  const auto is_work = [](const Instruction& i) { return !is_event(i); };
  return {
      {"drop an instruction",
       [](P p, D dice) {
         p.instructions.erase(p.instructions.begin() + static_cast<std::ptrdiff_t>(dice.below(p.instructions.size())));
       }},
      {"repeat a piece of work",
       [=](P p, D dice) {
         const Instruction again = pick_action(p, dice, is_work);
         p.instructions.insert(p.instructions.begin() + static_cast<std::ptrdiff_t>(dice.below(p.instructions.size())),
                               again);
       }},
      {"read too early", [](P p, D dice) { REQUIRE(read_too_early(p, dice)); }},
      {"another index",
       [=](P p, D dice) {
         Instruction& i = pick_action(p, dice, [&](const Instruction& x) { return table_count(p, x.action) > 1; });
         i.index = dice.other(table_count(p, i.action), i.index);
       }},
      {"an index past the table",
       [=](P p, D dice) {
         Instruction& i = pick_action(p, dice, is_any);
         i.index = static_cast<PlanIndex>(table_count(p, i.action));
       }},
      {"another micro-batch",
       [=](P p, D dice) {
         Instruction& i = pick_action(p, dice, is_work);
         i.microbatch = static_cast<int32_t>(dice.other(static_cast<size_t>(p.microbatches) + 1,
                                                        static_cast<PlanIndex>(i.microbatch + 1))) -
                        1;
       }},
      {"another queue",
       [=](P p, D dice) {
         Instruction& i = pick_action(p, dice, is_any);
         i.queue = dice.other(p.queues.size(), i.queue);
       }},
      {"another slice to read",
       [=](P p, D dice) {
         Instruction& i =
             pick_action(p, dice, [](const Instruction& x) { return !x.reads.empty() && x.reads[0] != kNone; });
         i.reads[0] = dice.other(p.slices.size(), i.reads[0]);
       }},
      {"another slice to write",
       [=](P p, D dice) {
         Instruction& i = pick_action(p, dice, [](const Instruction& x) { return !x.writes.empty(); });
         i.writes[0] = dice.other(p.slices.size(), i.writes[0]);
       }},
      {"one slice too many",
       [=](P p, D dice) {
         pick_action(p, dice, is_any).reads.push_back(static_cast<PlanIndex>(dice.below(p.slices.size())));
       }},
      {"a bad start", [](P p, D dice) { dice.pick(p.instructions).start_s = dice.bad_cost(); }},
      {"overlap what is alive",
       [](P p, D dice) {
         if (p.nodes.size() == 2)
           p = test::training_plan(3, true);  // in the inference plan nothing outlives the next write
         REQUIRE(overlap_live(p, dice));
       }},
      {"misalign a slice",
       [](P p, D dice) { dice.pick(p.slices).offset += 1 + static_cast<int64_t>(dice.below(kSliceAlignment - 1)); }},
      {"a slice outside its arena",
       [](P p, D dice) {
         PlanSlice& slice = dice.pick(p.slices);
         constexpr int64_t kHuge = std::numeric_limits<int64_t>::max() / kSliceAlignment * kSliceAlignment;
         const int64_t offsets[] = {p.devices[slice.device.index()].arena_bytes, -kSliceAlignment, kHuge, -kHuge};
         slice.offset = offsets[dice.below(4)];
       }},
      {"other bytes of a slice",
       [](P p, D dice) {
         PlanSlice& slice = pick_value_slice(p, dice);
         const int64_t bytes[] = {slice.bytes - 1, slice.bytes + 1, -slice.bytes, std::numeric_limits<int64_t>::max(),
                                  0};
         slice.bytes = bytes[dice.below(5)];
       }},
      {"another device of a slice",
       [](P p, D dice) {
         PlanSlice& s = dice.pick(p.slices);
         s.device = DeviceId(dice.other(4, s.device.index()));
       }},
      {"another value of a slice",
       [](P p, D dice) {
         PlanSlice& s = dice.pick(p.slices);
         s.value = dice.other(p.values.size(), s.value);
       }},
      {"another micro-batch of a slice",
       [](P p, D dice) {
         PlanSlice& s = pick_value_slice(p, dice);
         s.microbatch = static_cast<int32_t>(dice.other(static_cast<size_t>(p.microbatches) + 2,
                                                        static_cast<PlanIndex>(s.microbatch + 1))) -
                        1;
       }},
      {"another operand of a node",
       [](P p, D dice) {
         PlanIndex& v = dice.pick(p.nodes).inputs[0];
         v = dice.other(p.values.size() + 1, v);
       }},
      {"another result of a node",
       [](P p, D dice) {
         PlanIndex& v = dice.pick(p.nodes).outputs[0];
         v = dice.other(p.values.size() + 1, v);
       }},
      {"another device of a node",
       [](P p, D dice) {
         PlanNode& n = dice.pick(p.nodes);
         n.device = DeviceId(dice.other(4, n.device.index()));
       }},
      {"another rate of a node",
       [](P p, D dice) {
         PlanNode& n = dice.pick(p.nodes);
         n.per_step = !n.per_step;
       }},
      {"a bad cost of a node", [](P p, D dice) { dice.pick(dice.pick(p.nodes).seconds) = dice.bad_cost(); }},
      {"another source of a transfer",
       [](P p, D dice) {
         PlanIndex& v = dice.pick(p.transfers).sources[0];
         v = dice.other(p.values.size() + 1, v);
       }},
      {"another destination of a transfer",
       [](P p, D dice) {
         PlanIndex& v = dice.pick(p.transfers).destinations[0];
         v = dice.other(p.values.size() + 1, v);
       }},
      {"another end of a transfer",
       [](P p, D dice) {
         PlanTransfer& t = dice.pick(p.transfers);
         t.to = DeviceId(dice.other(4, t.to.index()));
       }},
      {"one element more in a value",
       [](P p, D dice) {
         // Not the scalars, whose axis 0 does not exist.
         for (;;) {
           Shape& shape = dice.pick(dice.pick(p.values).shapes);
           if (shape.rank() == 0) continue;
           const int axis = static_cast<int>(dice.below(static_cast<size_t>(shape.rank())));
           shape.set(axis, shape[axis] + 1);
           return;
         }
       }},
      {"another rate of a value",
       [](P p, D dice) {
         PlanValue& v = dice.pick(p.values);
         v.per_step = !v.per_step;
       }},
      {"a wider dtype of a value",
       [](P p, D dice) {
         PlanValue& v = dice.pick(p.values);
         v.dtype = v.dtype == DType::i64 ? DType::f32 : DType::f64;
       }},
      {"a smaller arena", [](P p, D dice) { dice.pick(p.devices).arena_bytes -= kSliceAlignment; }},
      {"a smaller device",
       [](P p, D dice) {
         PlanDevice& d = dice.pick(p.devices);
         d.capacity_bytes = static_cast<int64_t>(dice.below(static_cast<size_t>(d.arena_bytes)));
       }},
      {"another kind of a queue",
       [](P p, D dice) {
         PlanQueue& q = dice.pick(p.queues);
         q.kind = static_cast<QueueKind>(dice.other(3, static_cast<PlanIndex>(q.kind)));
       }},
      {"other queues' places",
       [](P p, D dice) {
         const PlanIndex used = dice.pick(p.instructions).queue;
         std::swap(p.queues[used], p.queues[dice.other(p.queues.size(), used)]);
       }},
      {"another count of micro-batches", [](P p, D dice) { p.microbatches += dice.below(2) == 0 ? 1 : -1; }},
      {"another count of events", [](P p, D dice) { p.event_count += dice.below(2) == 0 ? 1u : ~0u; }},
      {"another batch", [](P p, D dice) { p.batch += 1 + static_cast<int64_t>(dice.below(3)) * p.microbatch_rows; }},
  };
}

std::vector<Plan> plans() {
  std::vector<Plan> all = {test::inference_plan()};
  for (const int32_t microbatches : {2, 3, 4}) {
    all.push_back(test::training_plan(microbatches, false));
    all.push_back(test::training_plan(microbatches, true));
  }
  return all;
}

TEST_CASE("check_plan: refuses every plan that was made wrong at random") {
  const std::vector<Plan> good = plans();
  size_t refused = 0;
  for (const Kind& kind : kinds()) {
    for (uint32_t seed = 0; seed < kSeeds; ++seed) {
      PlanDice dice(seed);
      const size_t which = dice.below(good.size());
      Plan plan = good[which];
      kind.apply(plan, dice);
      std::string found = "accepted";
      try {
        check_plan(plan);
      } catch (const Error& error) {
        found = error_name(error.id());
      }
      refused += found == "M061" ? 1 : 0;
      CHECK_MESSAGE(found == "M061", kind.what, ", seed ", seed, ", plan ", which, ": ", found);
    }
  }
  CHECK(refused == kinds().size() * kSeeds);
}

}  // namespace
}  // namespace mpc
