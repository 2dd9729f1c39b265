#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "compiler/base/error.h"
#include "compiler/plan/check.h"
#include "compiler/plan/text.h"
#include "tests/plans/plan_fixture.h"

namespace mpc {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// "M061: message", or "accepted".
std::string verdict(const Plan& plan) {
  try {
    check_plan(plan);
  } catch (const Error& error) {
    return std::string(error_name(error.id())) + ": " + error.what();
  }
  return "accepted";
}

template <class T>
PlanIndex named(const std::vector<T>& rows, const std::string& name) {
  const auto it = std::ranges::find_if(rows, [&](const T& row) { return row.name == name; });
  REQUIRE_MESSAGE(it != rows.end(), name);
  return static_cast<PlanIndex>(it - rows.begin());
}

size_t position(const Plan& plan, Action action, PlanIndex index, int32_t microbatch) {
  const auto it = std::ranges::find_if(plan.instructions, [&](const Instruction& i) {
    return i.action == action && i.index == index && i.microbatch == microbatch;
  });
  REQUIRE(it != plan.instructions.end());
  return static_cast<size_t>(it - plan.instructions.begin());
}

size_t run_of(const Plan& plan, const char* node, int32_t microbatch) {
  return position(plan, Action::run, named(plan.nodes, node), microbatch);
}

size_t slice_of(const Plan& plan, const char* value, int32_t microbatch, int device) {
  const PlanIndex index = named(plan.values, value);
  const auto it = std::ranges::find_if(plan.slices, [&](const PlanSlice& s) {
    return s.value == index && s.microbatch == microbatch && s.device == DeviceId(device);
  });
  REQUIRE_MESSAGE(it != plan.slices.end(), value);
  return static_cast<size_t>(it - plan.slices.begin());
}

void drop(Plan& plan, size_t instruction) {
  plan.instructions.erase(plan.instructions.begin() + static_cast<std::ptrdiff_t>(instruction));
}

void move_before(Plan& plan, size_t from, size_t to) {
  const Instruction moved = plan.instructions[from];
  drop(plan, from);
  plan.instructions.insert(plan.instructions.begin() + static_cast<std::ptrdiff_t>(to), moved);
}

// The last wait before the instruction `from` on its queue.
size_t wait_before(const Plan& plan, size_t from) {
  for (size_t i = from; i-- > 0;) {
    if (plan.instructions[i].action == Action::wait && plan.instructions[i].queue == plan.instructions[from].queue)
      return i;
  }
  FAIL("no wait before the instruction");
  return 0;
}

struct Mutation {
  const char* what;
  const char* expected;  // the error's id
  std::function<void(Plan&)> apply;
};

// On training_plan(3, true): values and nodes are named there.
std::vector<Mutation> mutations() {
  using P = Plan&;
  return {
      // the head
      {"unknown version", "M062", [](P p) { p.version = 2; }},
      {"no micro-batches", "M061", [](P p) { p.microbatches = 0; }},
      {"one micro-batch more than there are", "M061", [](P p) { ++p.microbatches; }},
      {"a tail that is none", "M061", [](P p) { p.batch = 12; }},
      {"more rows than the batch", "M061", [](P p) { p.microbatch_rows = std::numeric_limits<int64_t>::max(); }},
      {"NaN step time", "M061", [](P p) { p.step_seconds = kNan; }},
      {"bubble above 1", "M061", [](P p) { p.bubble = 1.5; }},
      {"infinite objective", "M061", [](P p) { p.objective_value = std::numeric_limits<double>::infinity(); }},
      {"hash of the wrong form", "M061", [](P p) { p.model.sha256 = "abc"; }},
      {"too many queues", "M051", [](P p) { p.queues.resize(5000); }},
      // devices and links
      {"no devices", "M061", [](P p) { p.devices.clear(); }},
      {"two devices of a name", "M061", [](P p) { p.devices[1].name = p.devices[0].name; }},
      {"capacity below the plan's own peak", "M061",
       [](P p) { p.devices[0].capacity_bytes = p.devices[0].arena_bytes - 1; }},
      {"negative capacity", "M061", [](P p) { p.devices[0].capacity_bytes = -1; }},
      {"arena smaller than its slices", "M061", [](P p) { p.devices[1].arena_bytes -= kSliceAlignment; }},
      {"memory by use above the arena", "M061",
       [](P p) { p.devices[0].memory.workspace_bytes = p.devices[0].arena_bytes + 1; }},
      {"memory by use that wraps", "M061",
       [](P p) { p.devices[0].memory = {std::numeric_limits<int64_t>::max(), 1, 0, 0, 0, 0}; }},
      {"no threads", "M061", [](P p) { p.devices[0].threads = 0; }},
      {"1e308 seconds on a device", "M061", [](P p) { p.devices[0].seconds = 1e308; }},
      {"link to itself", "M061", [](P p) { p.links[0].to = p.links[0].from; }},
      {"link to no device", "M061", [](P p) { p.links[0].to = DeviceId(2); }},
      {"link without bandwidth", "M061", [](P p) { p.links[0].bytes_per_second = 0; }},
      {"missing link", "M061", [](P p) { p.links.pop_back(); }},
      // values
      {"two values of a name", "M061", [](P p) { p.values[1].name = p.values[0].name; }},
      {"another shape than the slices", "M061",
       [](P p) {
         p.values[named(p.values, "h")].shapes[0] = {4, 6};
       }},
      {"another dtype than the slices", "M061", [](P p) { p.values[named(p.values, "h")].dtype = DType::f64; }},
      {"a copy of another shape", "M061",
       [](P p) {
         p.values[named(p.values, "h on cpu:1")].shapes[0] = {5, 4};
       }},
      {"a parameter per micro-batch", "M061", [](P p) { p.values[named(p.values, "w0")].per_step = false; }},
      {"a parameter without source", "M061", [](P p) { p.values[named(p.values, "w0")].source.clear(); }},
      {"a recipe of other shapes", "M061",
       [](P p) {
         PlanValue& w = p.values[named(p.values, "w0")];
         w.recipe.parts = {{w.source, Shape{1, 3}, {}}};
       }},
      {"a recipe whose parts do not lie side by side", "M061",
       [](P p) {
         PlanValue& w = p.values[named(p.values, "w0")];
         w.recipe.parts = {{w.source, w.shapes[0], {}}, {"w1", Shape{7}, {}}};
       }},
      {"a recipe that orders dimensions that are not there", "M061",
       [](P p) {
         PlanValue& w = p.values[named(p.values, "w0")];
         w.recipe.parts = {{w.source, w.shapes[0], {0, 5}}};
       }},
      {"a recipe of another source", "M061",
       [](P p) {
         PlanValue& w = p.values[named(p.values, "w0")];
         w.recipe.parts = {{"elsewhere", w.shapes[0], {}}};
       }},
      {"a recipe of what is no parameter", "M061",
       [](P p) {
         PlanValue& h = p.values[named(p.values, "h")];
         h.recipe.parts = {{"w0", h.shapes[0], {}}};
       }},
      {"a constant without content", "M061", [](P p) { p.values[named(p.values, "two")].literals.clear(); }},
      {"a constant with content of another shape", "M061",
       [](P p) {
         p.values[named(p.values, "two")].literals[1] = Literal::splat_number(DType::f32, {9, 9}, 2);
       }},
      {"a state without content", "M061", [](P p) { p.values[named(p.values, "acc0")].literals.clear(); }},
      // nodes
      {"two nodes of a name", "M061", [](P p) { p.nodes[1].name = p.nodes[0].name; }},
      {"node missing", "M061", [](P p) { p.nodes.pop_back(); }},
      {"node on device 2", "M061", [](P p) { p.nodes[0].device = DeviceId(2); }},
      {"node on device 2^31", "M061", [](P p) { p.nodes[0].device = DeviceId(uint32_t{1} << 31); }},
      {"node on no device", "M061", [](P p) { p.nodes[0].device = DeviceId{}; }},
      {"node on the other device", "M061", [](P p) { p.nodes[0].device = DeviceId(1); }},
      {"node that reads an unknown value", "M061", [](P p) { p.nodes[0].inputs[0] = 1000; }},
      {"node that makes an input", "M061", [](P p) { p.nodes[0].outputs[0] = named(p.values, "x"); }},
      {"node that makes what another makes", "M061", [](P p) { p.nodes[0].outputs[0] = named(p.values, "y"); }},
      {"node that makes nothing", "M061", [](P p) { p.nodes[0].outputs[0] = kNone; }},
      {"edge with no transfer", "M061",
       [](P p) { p.nodes[named(p.nodes, "layer1")].inputs[0] = named(p.values, "h"); }},
      {"per-step node that reads a micro-batch", "M061",
       [](P p) { p.nodes[named(p.nodes, "layer0 update")].inputs[1] = named(p.values, "dw0"); }},
      {"per-micro-batch node made per-step", "M061", [](P p) { p.nodes[0].per_step = true; }},
      {"node that reads a sum that is not complete", "M061",
       [](P p) { p.nodes[named(p.nodes, "layer1 backward")].inputs[1] = named(p.values, "w1 gradient"); }},
      {"NaN seconds", "M061", [](P p) { p.nodes[0].seconds[1] = kNan; }},
      {"negative flops", "M061", [](P p) { p.nodes[0].flops[0] = -1; }},
      {"1e308 flops", "M061", [](P p) { p.nodes[0].flops[0] = 1e308; }},
      {"attributes for one variant only", "M061", [](P p) { p.nodes[0].attributes.pop_back(); }},
      {"an operator without a kernel", "M061", [](P p) { p.nodes[0].op = OpKind::Transfer; }},
      {"an operator outside the table", "M061", [](P p) { p.nodes[0].op = static_cast<OpKind>(kOpCount); }},
      {"negative workspace", "M061", [](P p) { p.nodes[0].workspace_bytes = -1; }},
      {"workspace that no instruction brings", "M061", [](P p) { p.nodes[0].workspace_bytes = 1; }},
      // transfers
      {"transfer to its own device", "M061", [](P p) { p.transfers[0].to = p.transfers[0].from; }},
      {"transfer against its direction", "M061", [](P p) { std::swap(p.transfers[0].from, p.transfers[0].to); }},
      {"transfer without consumer", "M061",
       [](P p) {
         p.nodes[named(p.nodes, "layer1")].inputs[0] = named(p.values, "dy");
         p.nodes[named(p.nodes, "layer1 weights")].inputs[0] = named(p.values, "dy");
       }},
      {"transfer of nothing", "M061", [](P p) { p.transfers[0].sources.clear(), p.transfers[0].destinations.clear(); }},
      {"transfers that make each other's source", "M061",
       [](P p) {
         p.transfers[0].sources[0] = p.transfers[1].destinations[0];
         p.transfers[1].sources[0] = p.transfers[0].destinations[0];
       }},
      {"NaN seconds of a transfer", "M061", [](P p) { p.transfers[0].seconds[0] = kNan; }},
      // inputs, outputs, updates, gradients
      {"input of an unknown value", "M061", [](P p) { p.inputs[0].value = 1000; }},
      {"two inputs of one value", "M061", [](P p) { p.inputs[1].value = p.inputs[0].value; }},
      {"batched input of other rows", "M061",
       [](P p) {
         p.values[named(p.values, "x")].shapes[0] = {5, 4};
       }},
      {"output of an unknown value", "M061", [](P p) { p.outputs[0].value = 1000; }},
      {"output of another value", "M061", [](P p) { p.outputs[0].value = named(p.values, "dy"); }},
      {"sum of micro-batches of different shapes", "M061",
       [](P p) { p.outputs[0].combine = PlanOutput::Combine::sum; }},
      {"concatenated scalars", "M061", [](P p) { p.outputs[1].combine = PlanOutput::Combine::concatenate; }},
      {"loss that is no output", "M061", [](P p) { p.loss = 2; }},
      {"loss that is no scalar", "M061", [](P p) { p.loss = 0; }},
      {"update by a value that is not written over the parameter", "M061",
       [](P p) { std::swap(p.updates[0].next, p.updates[1].next); }},
      {"update missing", "M061", [](P p) { p.updates.pop_back(); }},
      {"update twice", "M061", [](P p) { p.updates.push_back(p.updates[0]); }},
      {"gradient of another shape", "M061", [](P p) { std::swap(p.gradients[0].gradient, p.gradients[1].gradient); }},
      // slices
      {"negative offset", "M061", [](P p) { p.slices[3].offset = -kSliceAlignment; }},
      {"misaligned offset", "M061", [](P p) { p.slices[3].offset += 64; }},
      {"offset plus bytes wraps", "M061",
       [](P p) { p.slices[3].offset = std::numeric_limits<int64_t>::max() / kSliceAlignment * kSliceAlignment; }},
      {"offset past the arena", "M061", [](P p) { p.slices[3].offset = p.devices[0].arena_bytes; }},
      {"a byte too few", "M061", [](P p) { --p.slices[3].bytes; }},
      {"negative bytes", "M061", [](P p) { p.slices[3].bytes = -1; }},
      {"slice of an unknown value", "M061", [](P p) { p.slices[3].value = 1000; }},
      {"slice on an unknown device", "M061", [](P p) { p.slices[3].device = DeviceId(2); }},
      {"slice of an unknown micro-batch", "M061", [](P p) { p.slices[slice_of(p, "h", 0, 0)].microbatch = 3; }},
      {"slice of micro-batch -2", "M061", [](P p) { p.slices[slice_of(p, "h", 0, 0)].microbatch = -2; }},
      {"two slices of one instance", "M061", [](P p) { p.slices.push_back(p.slices[3]); }},
      {"activation over a live activation", "M061",
       [](P p) { p.slices[slice_of(p, "y", 1, 1)].offset = p.slices[slice_of(p, "h on cpu:1", 0, 1)].offset; }},
      {"activation over a parameter", "M061",
       [](P p) { p.slices[slice_of(p, "h", 1, 0)].offset = p.slices[slice_of(p, "w0", kPerStep, 0)].offset; }},
      {"activation over a constant", "M061",
       [](P p) { p.slices[slice_of(p, "h on cpu:1", 1, 1)].offset = p.slices[slice_of(p, "two", 2, 1)].offset; }},
      {"activation over an accumulated gradient", "M061",
       [](P p) { p.slices[slice_of(p, "dw0", 1, 0)].offset = p.slices[slice_of(p, "acc0", kPerStep, 0)].offset; }},
      {"activation over a per-step input", "M061",
       [](P p) { p.slices[slice_of(p, "h", 1, 0)].offset = p.slices[slice_of(p, "step", kPerStep, 0)].offset; }},
      {"accumulated gradient apart from its buffer", "M061",
       [](P p) {
         p.slices[slice_of(p, "w0 gradient", kPerStep, 0)].offset = p.devices[0].arena_bytes;
         p.devices[0].arena_bytes += kSliceAlignment;
       }},
      {"reused bytes while a micro-batch still reads them", "M061",
       [](P p) { p.slices[slice_of(p, "dh on cpu:0", 0, 0)].offset = p.slices[slice_of(p, "x", 0, 0)].offset; }},
      {"output over an operand where the op does not allow it", "M061",
       [](P p) { p.slices[slice_of(p, "dh", 0, 1)].offset = p.slices[slice_of(p, "dy", 0, 1)].offset; }},
      // queues
      {"queue of an unknown device", "M061", [](P p) { p.queues[0].device = DeviceId(7); }},
      {"compute queue with a peer", "M061", [](P p) { p.queues[0].peer = DeviceId(1); }},
      {"send queue to itself", "M061", [](P p) { p.queues[2].peer = p.queues[2].device; }},
      {"queue twice", "M061", [](P p) { p.queues.push_back(p.queues[0]); }},
      // instructions: form
      {"unknown queue", "M061", [](P p) { p.instructions[0].queue = 99; }},
      {"run of an unknown node", "M061", [](P p) { p.instructions[run_of(p, "layer0", 0)].index = 99; }},
      {"run on the other device's queue", "M061", [](P p) { p.instructions[run_of(p, "layer0", 0)].queue = 1; }},
      {"run of an unknown micro-batch", "M061", [](P p) { p.instructions[run_of(p, "layer0", 0)].microbatch = 3; }},
      {"unknown slice", "M061", [](P p) { p.instructions[run_of(p, "layer0", 0)].reads[0] = 9999; }},
      {"operand missing", "M061", [](P p) { p.instructions[run_of(p, "layer0", 0)].reads.pop_back(); }},
      {"operand absent", "M061", [](P p) { p.instructions[run_of(p, "layer0", 0)].reads[0] = kNone; }},
      {"operand of another micro-batch", "M061",
       [](P p) { p.instructions[run_of(p, "layer0", 1)].reads[0] = static_cast<PlanIndex>(slice_of(p, "x", 0, 0)); }},
      {"result of another micro-batch", "M061",
       [](P p) { p.instructions[run_of(p, "layer0", 1)].writes[0] = static_cast<PlanIndex>(slice_of(p, "h", 0, 0)); }},
      {"constant of the other variant", "M061",
       [](P p) {
         p.instructions[run_of(p, "loss backward", 2)].reads[1] = static_cast<PlanIndex>(slice_of(p, "two", 0, 1));
       }},
      {"NaN start", "M061", [](P p) { p.instructions[5].start_s = kNan; }},
      // instructions: exactly once
      {"node that never runs", "M061", [](P p) { drop(p, run_of(p, "loss", 2)); }},
      {"node that runs twice", "M061",
       [](P p) {
         const Instruction i = p.instructions[run_of(p, "loss", 2)];
         p.instructions.push_back(i);
       }},
      {"update that runs twice", "M061",
       [](P p) {
         const Instruction i = p.instructions.back();
         p.instructions.push_back(i);
       }},
      {"recv missing", "M061", [](P p) { drop(p, position(p, Action::recv, 0, 1)); }},
      {"send missing", "M061", [](P p) { drop(p, position(p, Action::send, 0, 1)); }},
      {"copy missing", "M061",
       [](P p) {
         const size_t s = position(p, Action::send, 0, 1);
         drop(p, s);
         drop(p, s);
       }},
      {"recv before its send", "M061",
       [](P p) {
         const size_t s = position(p, Action::send, 0, 1);
         std::swap(p.instructions[s], p.instructions[s + 1]);
       }},
      {"two sends before their recvs", "M061",
       [](P p) { move_before(p, position(p, Action::send, 0, 1), position(p, Action::send, 0, 0) + 1); }},
      {"recv of another micro-batch", "M061",
       [](P p) {
         std::swap(p.instructions[position(p, Action::recv, 0, 0)], p.instructions[position(p, Action::recv, 0, 1)]);
       }},
      {"input that is not fed", "M061", [](P p) { drop(p, position(p, Action::feed, 0, 1)); }},
      {"per-step input that one device is not fed", "M061",
       [](P p) { drop(p, position(p, Action::feed, 1, kPerStep)); }},
      {"output that is not fetched", "M061", [](P p) { drop(p, position(p, Action::fetch, 0, 1)); }},
      {"output fetched twice", "M061",
       [](P p) {
         const size_t f = position(p, Action::fetch, 0, 1);
         const Instruction i = p.instructions[f];
         p.instructions.insert(p.instructions.begin() + static_cast<std::ptrdiff_t>(f), i);
       }},
      // instructions: order
      {"wait before its record", "M061",
       [](P p) {
         const size_t s = position(p, Action::record, 0, kPerStep);
         std::swap(p.instructions[s], p.instructions[s + 1]);
       }},
      {"event recorded twice", "M061", [](P p) { p.instructions[position(p, Action::record, 1, kPerStep)].index = 0; }},
      {"event never recorded", "M061", [](P p) { ++p.event_count; }},
      {"event outside the table", "M061", [](P p) { --p.event_count; }},
      {"more events than instructions", "M061", [](P p) { p.event_count = 1000; }},
      {"wait on the queue that records", "M061",
       [](P p) {
         const size_t s = position(p, Action::record, 0, kPerStep);
         p.instructions[s + 1].queue = p.instructions[s].queue;
       }},
      {"send that does not wait for its operand", "M061",
       [](P p) { drop(p, wait_before(p, position(p, Action::send, 0, 1))); }},
      {"reader that does not wait for its copy", "M061", [](P p) { drop(p, wait_before(p, run_of(p, "layer1", 1))); }},
      {"record before what it should cover", "M061",
       [](P p) { move_before(p, position(p, Action::record, 0, kPerStep), 0); }},
      {"reader before its writer", "M061", [](P p) { move_before(p, run_of(p, "loss", 1), run_of(p, "layer1", 1)); }},
      {"fetch before its writer", "M061",
       [](P p) { move_before(p, position(p, Action::fetch, 0, 1), run_of(p, "layer1", 1)); }},
      {"fetch after its bytes were reused", "M061",
       [](P p) { move_before(p, position(p, Action::fetch, 0, 1), run_of(p, "loss backward", 1)); }},
      {"micro-batches accumulated out of order", "M061",
       [](P p) { std::swap(p.instructions[run_of(p, "layer1 sum", 1)], p.instructions[run_of(p, "layer1 sum", 2)]); }},
      {"gradient accumulated after its bytes were reused", "M061",
       [](P p) { move_before(p, run_of(p, "layer1 sum", 0), run_of(p, "layer1 sum", 1)); }},
      {"update before the last micro-batch", "M061",
       [](P p) { move_before(p, run_of(p, "layer0 update", kPerStep), run_of(p, "layer0 sum", 2)); }},
      {"update before a reader of the old weights", "M061",
       [](P p) { move_before(p, run_of(p, "layer1 update", kPerStep), run_of(p, "layer1 backward", 0)); }},
  };
}

TEST_CASE("check_plan: the plans made by hand are accepted") {
  CHECK(verdict(test::inference_plan()) == "accepted");
  for (const int32_t microbatches : {1, 2, 3, 8})
    CHECK(verdict(test::training_plan(microbatches, false)) == "accepted");
  for (const int32_t microbatches : {2, 3, 8}) CHECK(verdict(test::training_plan(microbatches, true)) == "accepted");
}

TEST_CASE("check_plan: every wrong plan is refused with its id, a place and a sentence") {
  const Plan good = test::training_plan(3, true);
  for (const Mutation& mutation : mutations()) {
    Plan plan = good;
    mutation.apply(plan);
    const std::string found = verdict(plan);
    CHECK_MESSAGE(found.starts_with(mutation.expected), mutation.what, ": ", found);
    CHECK_MESSAGE(found.size() < 2048, mutation.what);
  }
}

TEST_CASE("check_plan: a wrong plan is refused after it went through its file") {
  const Plan good = test::training_plan(3, true);
  for (const Mutation& mutation : mutations()) {
    Plan plan = good;
    mutation.apply(plan);
    std::string found = "accepted";
    try {
      if (static_cast<int>(plan.nodes.empty() ? 0 : static_cast<int>(plan.nodes[0].op)) >= kOpCount)
        continue;  // has no name
      check_plan(parse_plan(print_plan(plan), "plan.json"));
    } catch (const Error& error) {
      found = error_name(error.id());
    }
    CHECK_MESSAGE((found == "M060" || found == mutation.expected), mutation.what, ": ", found);
  }
}

TEST_CASE("check_plan: messages name the node, the micro-batch and the device") {
  Plan plan = test::training_plan(3, true);
  drop(plan, wait_before(plan, run_of(plan, "layer1", 1)));
  const std::string found = verdict(plan);
  for (const char* part : {"layer1", "model/layer1", "micro-batch 1", "cpu:1", "h on cpu:1", "recv"}) {
    CHECK_MESSAGE(found.find(part) != std::string::npos, part, " in ", found);
  }
}

TEST_CASE("check_plan: workspaces must be apart from operands and from concurrent work") {
  Plan plan = test::inference_plan();
  const size_t run = run_of(plan, "gemm1", 1);
  PlanSlice& workspace = plan.slices[plan.instructions[run].workspace];
  const int64_t good_offset = workspace.offset;
  workspace.offset = plan.slices[plan.instructions[run].writes[0]].offset;
  CHECK(verdict(plan).starts_with("M061"));
  workspace.offset = plan.slices[plan.instructions[run].reads[0]].offset;
  CHECK(verdict(plan).starts_with("M061"));
  // Two micro-batches on one queue may share theirs.
  workspace.offset = plan.slices[plan.instructions[run_of(plan, "gemm1", 0)].workspace].offset;
  CHECK(verdict(plan) == "accepted");
  workspace.offset = good_offset;
  plan.instructions[run].workspace = plan.instructions[run].reads[0];
  CHECK(verdict(plan).starts_with("M061"));
}

TEST_CASE("check_plan: bytes may be reused once their readers are done, and not by another queue before") {
  // The second micro-batch's h takes the bytes of the first one's. The compute queue must then wait for the first send.
  Plan plan = test::inference_plan();
  plan.slices[slice_of(plan, "h", 1, 0)].offset = plan.slices[slice_of(plan, "h", 0, 0)].offset;
  CHECK(verdict(plan).starts_with("M061"));
  const size_t recv = position(plan, Action::recv, 0, 0);
  const PlanIndex event = plan.event_count++;
  const Instruction send = plan.instructions[recv - 1];
  const Instruction record{Action::record, send.queue, event, kPerStep, {}, {}, kNone, 0};
  const Instruction wait{Action::wait, 0, event, kPerStep, {}, {}, kNone, 0};
  plan.instructions.insert(plan.instructions.begin() + static_cast<std::ptrdiff_t>(recv) + 1, {record, wait});
  CHECK(verdict(plan) == "accepted");
}

TEST_CASE("check_plan: a reader waits for the recv, not for the send") {
  // A send has completed when its slices may be overwritten; the transport may still have the bytes.
  Plan plan = test::inference_plan();
  const size_t recv = position(plan, Action::recv, 0, 1);
  Instruction& record = plan.instructions[recv + 1];
  REQUIRE(record.action == Action::record);
  record.queue = plan.instructions[recv - 1].queue;
  CHECK(verdict(plan).starts_with("M061"));
}

TEST_CASE("check_plan: an output may take the bytes of an operand of the same type only") {
  Plan plan = test::training_plan(2, false);
  REQUIRE(verdict(plan) == "accepted");  // Mul writes dy over y
  plan.nodes[named(plan.nodes, "loss backward")].op = OpKind::MatMul;
  CHECK(verdict(plan).starts_with("M061"));
}

// Running statistics: written over in place by every micro-batch in turn, from the parameters' content on.
Plan normalization_plan() {
  test::PlanBuilder b(1, 3);
  const PlanIndex x = b.value("x", {{4, 2}}, PlanValueKind::input);
  std::vector<PlanIndex> operands = {x};
  for (const char* name : {"scale", "bias", "mean", "variance"}) {
    operands.push_back(b.value(name, {{2}}, PlanValueKind::parameter, true));
  }
  const PlanIndex y = b.value("y", {{4, 2}});
  const PlanIndex mean = b.value("mean next", {{2}}, PlanValueKind::temporary, true);
  const PlanIndex variance = b.value("variance next", {{2}}, PlanValueKind::temporary, true);
  b.plan.inputs = {{"x", x, true, PlanInput::Role::data}};
  b.plan.outputs = {{"y", y, PlanOutput::Combine::concatenate}, {"mean", mean, PlanOutput::Combine::last}};
  b.plan.updates = {{operands[3], mean}, {operands[4], variance}};
  const PlanIndex normalize = b.node(OpKind::BatchNormalizationTraining, "normalize", 0, operands, {y, mean, variance});
  for (int32_t m = 0; m < 3; ++m) {
    b.feed(0, m, 0);
    b.run(normalize, m);
    b.fetch(0, m, 0);
  }
  b.fetch(1, kPerStep, 0);
  return b.done();
}

TEST_CASE("check_plan: running statistics go from micro-batch to micro-batch in order") {
  const Plan good = normalization_plan();
  CHECK(verdict(good) == "accepted");
  Plan plan = good;
  std::swap(plan.instructions[run_of(plan, "normalize", 1)], plan.instructions[run_of(plan, "normalize", 2)]);
  CHECK(verdict(plan).starts_with("M061"));
  plan = good;  // read before the last micro-batch has been added
  move_before(plan, position(plan, Action::fetch, 1, kPerStep), run_of(plan, "normalize", 2));
  CHECK(verdict(plan).starts_with("M061"));
  plan = good;  // overwritten, but not kept
  plan.updates.pop_back();
  CHECK(verdict(plan).starts_with("M061"));
  plan = good;  // a step's value that is not updated in place cannot be made three times
  plan.nodes[0].op = OpKind::BatchNormalization;
  CHECK(verdict(plan).starts_with("M061"));
  plan = good;  // another node that reads the old statistics in every micro-batch
  plan.nodes[0].inputs[1] = plan.nodes[0].inputs[3];
  for (Instruction& i : plan.instructions) {
    if (i.action == Action::run) i.reads[1] = i.reads[3];
  }
  CHECK(verdict(plan).starts_with("M061"));
}

TEST_CASE("check_plan: host memory runs nothing") {
  Plan plan = test::inference_plan();
  plan.devices.back().backend = "host";
  CHECK(verdict(plan).find("which is memory and runs nothing") != std::string::npos);
}

TEST_CASE("check_plan: an empty tensor needs no bytes") {
  Plan plan = test::inference_plan();
  for (const char* name : {"h", "h on cpu:1"}) plan.values[named(plan.values, name)].shapes[0] = {4, 0};
  for (const char* name : {"h", "h on cpu:1"}) {
    for (int32_t m = 0; m < 2; ++m) plan.slices[slice_of(plan, name, m, name[1] == '\0' ? 0 : 1)].bytes = 0;
  }
  CHECK(verdict(plan) == "accepted");
}

}  // namespace
}  // namespace mpc
