#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "compiler/base/error.h"
#include "compiler/plan/check.h"
#include "compiler/plan/live_bytes.h"
#include "compiler/plan/simulate.h"
#include "compiler/plan/views.h"
#include "tests/plans/plan_fixture.h"

// x (4, 4) -> Abs -> h (4, 4) -> Reshape -> flat (16), a view; then Neg of h and Neg of flat are read and sent on.

namespace mpc {
namespace {

constexpr int64_t kBytes = 64;  // of each value

struct Viewed {
  test::PlanBuilder builder;
  PlanIndex h = kNone;
  PlanIndex flat = kNone;
  PlanIndex minus = kNone;       // of h
  PlanIndex minus_flat = kNone;  // of flat
  size_t reshape = 0;            // instructions
  size_t negate = 0;
};

/// @param is_over_h  does Neg of h write over it, while the view is still to be read?
Viewed viewed_plan(bool is_over_h) {
  Viewed v{test::PlanBuilder(1, 1)};
  test::PlanBuilder& b = v.builder;
  b.plan.model = {"views.onnx", std::string(64, 'c'), {{"x", {4, 4}}}};
  b.plan.batch = b.plan.microbatch_rows = 4;
  const PlanIndex x = b.value("x", {{4, 4}}, PlanValueKind::input);
  v.h = b.value("h", {{4, 4}});
  v.flat = b.value("flat", {{16}});
  v.minus = b.value("minus", {{4, 4}});
  v.minus_flat = b.value("minus flat", {{16}});
  b.plan.inputs.push_back({"x", x, true, PlanInput::Role::data});
  b.plan.outputs.push_back({"minus", v.minus, PlanOutput::Combine::concatenate});
  b.plan.outputs.push_back({"minus flat", v.minus_flat, PlanOutput::Combine::last});
  const PlanIndex abs = b.node(OpKind::Abs, "abs", 0, {x}, {v.h});
  const PlanIndex reshape = b.node(OpKind::Reshape, "reshape", 0, {v.h}, {v.flat}, PlanPhase::forward, false,
                                   {{"shape", std::vector<int64_t>{16}}, {"allowzero", int64_t{0}}});
  const PlanIndex negate = b.node(OpKind::Neg, "negate", 0, {v.h}, {v.minus});
  const PlanIndex negate_flat = b.node(OpKind::Neg, "negate flat", 0, {v.flat}, {v.minus_flat});
  b.feed(0, 0, 0);
  b.run(abs, 0);
  b.slice_over(v.flat, 0, b.slice(v.h, 0, 0));
  v.reshape = b.plan.instructions.size();
  b.run(reshape, 0);
  if (is_over_h) b.slice_over(v.minus, 0, b.slice(v.h, 0, 0));
  v.negate = b.plan.instructions.size();
  b.run(negate, 0);
  b.run(negate_flat, 0);
  b.fetch(0, 0, 0);
  b.fetch(1, 0, 0);
  v.builder.done();
  return v;
}

std::string verdict(const Plan& plan) {
  try {
    check_plan(plan);
  } catch (const Error& error) {
    return std::string(error_name(error.id())) + ": " + error.what();
  }
  return "accepted";
}

TEST_CASE("views: a reshaped value and its operand may be read in one place, in either order") {
  Plan plan = viewed_plan(false).builder.plan;
  CHECK(verdict(plan) == "accepted");
  const Viewed v = viewed_plan(false);
  std::swap(plan.instructions[v.negate], plan.instructions[v.negate + 1]);
  CHECK(verdict(plan) == "accepted");
}

TEST_CASE("views: nothing may write over the bytes while a view of them is still to be read") {
  const std::string found = verdict(viewed_plan(true).builder.plan);
  CHECK(found.starts_with("M061"));
  CHECK(found.find("negate flat") != std::string::npos);
  // Once the view was read, the last reader of the operand may take the bytes.
  Viewed v = viewed_plan(true);
  std::swap(v.builder.plan.instructions[v.negate], v.builder.plan.instructions[v.negate + 1]);
  CHECK(verdict(v.builder.plan) == "accepted");
}

TEST_CASE("views: what hands on bytes within one range writes nothing; elsewhere it is a copy") {
  Viewed v = viewed_plan(false);
  Plan& plan = v.builder.plan;
  const std::vector<PlanIndex> origins = origins_of_bytes(plan);
  CHECK(origins[v.flat] == v.h);
  CHECK(origins[v.minus_flat] == v.minus_flat);
  const Instruction& reshape = plan.instructions[v.reshape];
  CHECK(is_view(plan, origins, reshape));
  CHECK_FALSE(is_view(plan, origins, plan.instructions[v.negate]));
  plan.slices[reshape.writes[0]].offset = plan.devices[0].arena_bytes;
  plan.devices[0].arena_bytes += kSliceAlignment;
  CHECK_FALSE(is_view(plan, origins, reshape));
  CHECK(verdict(plan) == "accepted");
}

TEST_CASE("views: a value of another size, type or rate is no view") {
  Viewed v = viewed_plan(false);
  Plan& plan = v.builder.plan;
  plan.values[v.flat].shapes = {{15}};
  CHECK(origins_of_bytes(plan)[v.flat] == v.flat);
  plan.values[v.flat].shapes = {{16}};
  plan.values[v.flat].dtype = DType::i32;
  CHECK(origins_of_bytes(plan)[v.flat] == v.flat);
  plan.values[v.flat].dtype = DType::f32;
  plan.values[v.flat].per_step = true;
  CHECK(origins_of_bytes(plan)[v.flat] == v.flat);
  plan.values[v.flat].per_step = false;
  plan.values[v.h].is_gradient = true;  // it stays after the step, and may be added to
  CHECK(origins_of_bytes(plan)[v.flat] == v.flat);
}

TEST_CASE("views: bytes with several names are live once") {
  const Plan plan = viewed_plan(false).builder.plan;
  // While the second Neg runs: h with its view, minus, minus flat.
  int64_t most = 0;
  const std::vector<std::vector<MemoryPoint>> points = memory_over_time(plan, simulate(plan));
  for (const MemoryPoint& point : points.front()) most = std::max(most, point.bytes);
  CHECK(most == 3 * kBytes);
  CHECK(most_live_bytes(plan).front() == 3 * kSliceAlignment);
}

}  // namespace
}  // namespace mpc
