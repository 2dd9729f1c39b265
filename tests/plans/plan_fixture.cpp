#include "tests/plans/plan_fixture.h"

#include <algorithm>

#include "compiler/base/checked.h"

namespace mpc::test {
namespace {

constexpr double kNodeSeconds = 1;
constexpr double kCopySeconds = 0.5;
constexpr int64_t kCapacityBytes = 1 << 20;

}  // namespace

PlanBuilder::PlanBuilder(int device_count, int32_t microbatches) : next_offset_(static_cast<size_t>(device_count), 0) {
  plan.schedule = "gpipe";
  plan.objective = "throughput";
  plan.microbatches = microbatches;
  for (int d = 0; d < device_count; ++d) {
    PlanDevice device;
    device.name = "cpu:" + std::to_string(d);
    device.backend = "cpu";
    device.hardware = "cpu";
    device.capacity_bytes = kCapacityBytes;
    plan.devices.push_back(device);
    plan.queues.push_back({DeviceId(d), QueueKind::compute, DeviceId{}});
  }
  for (int from = 0; from < device_count; ++from) {
    for (int to = 0; to < device_count; ++to) {
      if (from == to) continue;
      plan.links.push_back({DeviceId(from), DeviceId(to), 1e9, 1e-6});
      plan.queues.push_back({DeviceId(from), QueueKind::send, DeviceId(to)});
      plan.queues.push_back({DeviceId(to), QueueKind::recv, DeviceId(from)});
    }
  }
}

PlanIndex PlanBuilder::value(std::string name, std::vector<Shape> shapes, PlanValueKind kind, bool per_step,
                             DType dtype) {
  PlanValue value;
  value.name = std::move(name);
  value.dtype = dtype;
  value.shapes = std::move(shapes);
  value.kind = kind;
  value.per_step = per_step;
  if (kind == PlanValueKind::parameter) value.source = value.name;
  plan.values.push_back(std::move(value));
  return static_cast<PlanIndex>(plan.values.size() - 1);
}

PlanIndex PlanBuilder::node(OpKind op, std::string name, int device, std::vector<PlanIndex> inputs,
                            std::vector<PlanIndex> outputs, PlanPhase phase, bool per_step, Attributes attributes) {
  PlanNode node;
  node.op = op;
  node.name = name;
  node.origin = "model/" + name;
  node.phase = phase;
  node.device = DeviceId(device);
  node.per_step = per_step;
  node.inputs = std::move(inputs);
  node.outputs = std::move(outputs);
  const auto variants = static_cast<size_t>(plan.variant_count());
  node.attributes.assign(variants, attributes);
  node.flops.assign(variants, 100);
  node.seconds.assign(variants, kNodeSeconds);
  plan.nodes.push_back(std::move(node));
  return static_cast<PlanIndex>(plan.nodes.size() - 1);
}

PlanIndex PlanBuilder::transfer(PlanIndex source, PlanIndex destination, int from, int to, PlanPhase phase) {
  PlanTransfer transfer;
  transfer.name = plan.values[source].name + " to " + plan.devices[static_cast<size_t>(to)].name;
  transfer.from = DeviceId(from);
  transfer.to = DeviceId(to);
  transfer.phase = phase;
  transfer.per_step = plan.values[source].per_step;
  transfer.sources = {source};
  transfer.destinations = {destination};
  transfer.seconds.assign(static_cast<size_t>(plan.variant_count()), kCopySeconds);
  plan.transfers.push_back(std::move(transfer));
  return static_cast<PlanIndex>(plan.transfers.size() - 1);
}

PlanIndex PlanBuilder::slice(PlanIndex value, int32_t microbatch, int device) {
  const int32_t instance = plan.instance_of(value, microbatch);
  const auto same = std::ranges::find_if(plan.slices, [&](const PlanSlice& s) {
    return s.value == value && s.microbatch == instance && s.device == DeviceId(device);
  });
  if (same != plan.slices.end()) return static_cast<PlanIndex>(same - plan.slices.begin());
  const int64_t bytes = plan.value_bytes(value, plan.variant_of(instance));
  int64_t& offset = next_offset_[static_cast<size_t>(device)];
  plan.slices.push_back({value, instance, DeviceId(device), offset, bytes});
  offset = align_up(offset + bytes, kSliceAlignment);
  return static_cast<PlanIndex>(plan.slices.size() - 1);
}

PlanIndex PlanBuilder::slice_over(PlanIndex value, int32_t microbatch, PlanIndex other_slice) {
  const PlanSlice other = plan.slices[other_slice];
  const int32_t instance = plan.instance_of(value, microbatch);
  const int64_t bytes = plan.value_bytes(value, plan.variant_of(instance));
  plan.slices.push_back({value, instance, other.device, other.offset, bytes});
  return static_cast<PlanIndex>(plan.slices.size() - 1);
}

std::vector<PlanIndex> PlanBuilder::operands(const std::vector<PlanIndex>& values, int32_t microbatch, int device) {
  std::vector<PlanIndex> slices;
  for (const PlanIndex value : values) slices.push_back(value == kNone ? kNone : slice(value, microbatch, device));
  return slices;
}

void PlanBuilder::run(PlanIndex index, int32_t microbatch) {
  const PlanNode& node = plan.nodes[index];
  const int device = static_cast<int>(node.device.index());
  Instruction instruction;
  instruction.queue = queue(QueueKind::compute, device);
  instruction.index = index;
  instruction.microbatch = microbatch;
  instruction.reads = operands(node.inputs, microbatch, device);
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    const auto aliased = aliased_input(node.op, static_cast<int>(i));
    const bool is_new =
        std::ranges::none_of(plan.slices, [&](const PlanSlice& s) { return s.value == node.outputs[i]; });
    if (aliased && is_new) slice_over(node.outputs[i], microbatch, instruction.reads[static_cast<size_t>(*aliased)]);
  }
  instruction.writes = operands(node.outputs, microbatch, device);
  if (node.workspace_bytes > 0) {
    int64_t& offset = next_offset_[static_cast<size_t>(device)];
    instruction.workspace = static_cast<PlanIndex>(plan.slices.size());
    plan.slices.push_back({kNone, microbatch, node.device, offset, node.workspace_bytes});
    offset = align_up(offset + node.workspace_bytes, kSliceAlignment);
  }
  plan.instructions.push_back(std::move(instruction));
}

void PlanBuilder::copy(PlanIndex index, int32_t microbatch) {
  const PlanTransfer& transfer = plan.transfers[index];
  const int from = static_cast<int>(transfer.from.index());
  const int to = static_cast<int>(transfer.to.index());
  order(queue(QueueKind::compute, from), queue(QueueKind::send, from, to));
  Instruction send{Action::send, queue(QueueKind::send, from, to), index, microbatch, {}, {}, kNone, 0};
  send.reads = operands(transfer.sources, microbatch, from);
  Instruction recv{Action::recv, queue(QueueKind::recv, to, from), index, microbatch, {}, {}, kNone, 0};
  recv.writes = operands(transfer.destinations, microbatch, to);
  plan.instructions.push_back(std::move(send));
  plan.instructions.push_back(std::move(recv));
  order(queue(QueueKind::recv, to, from), queue(QueueKind::compute, to));
}

void PlanBuilder::feed(PlanIndex input, int32_t microbatch, int device) {
  const PlanIndex written = slice(plan.inputs[input].value, microbatch, device);
  plan.instructions.push_back(
      {Action::feed, queue(QueueKind::compute, device), input, microbatch, {}, {written}, kNone, 0});
}

void PlanBuilder::fetch(PlanIndex output, int32_t microbatch, int device) {
  const PlanIndex read = slice(plan.outputs[output].value, microbatch, device);
  plan.instructions.push_back(
      {Action::fetch, queue(QueueKind::compute, device), output, microbatch, {read}, {}, kNone, 0});
}

PlanIndex PlanBuilder::queue(QueueKind kind, int device, int peer) const {
  const PlanQueue wanted = {DeviceId(device), kind, peer < 0 ? DeviceId{} : DeviceId(peer)};
  return static_cast<PlanIndex>(std::ranges::find(plan.queues, wanted) - plan.queues.begin());
}

void PlanBuilder::order(PlanIndex recording, PlanIndex waiting) {
  const PlanIndex event = plan.event_count++;
  plan.instructions.push_back({Action::record, recording, event, kPerStep, {}, {}, kNone, 0});
  plan.instructions.push_back({Action::wait, waiting, event, kPerStep, {}, {}, kNone, 0});
}

Plan PlanBuilder::done() {
  for (size_t d = 0; d < plan.devices.size(); ++d) plan.devices[d].arena_bytes = next_offset_[d];
  return plan;
}

Plan inference_plan() {
  PlanBuilder b(2, 2);
  b.plan.model = {"two_gemms.onnx", std::string(64, 'a'), {{"x", {8, 4}}}};
  b.plan.batch = 8;
  b.plan.microbatch_rows = 4;
  const Attributes gemm = {{"alpha", 1.0}, {"beta", 1.0}, {"transA", int64_t{0}}, {"transB", int64_t{0}}};
  const PlanIndex x = b.value("x", {{4, 4}}, PlanValueKind::input);
  const PlanIndex w0 = b.value("w0", {{4, 4}}, PlanValueKind::parameter, true);
  const PlanIndex w1 = b.value("w1", {{4, 3}}, PlanValueKind::parameter, true);
  const PlanIndex h = b.value("h", {{4, 4}});
  const PlanIndex h1 = b.value("h on cpu:1", {{4, 4}});
  const PlanIndex y = b.value("y", {{4, 3}});
  b.plan.inputs.push_back({"x", x, true, PlanInput::Role::data});
  b.plan.outputs.push_back({"y", y, PlanOutput::Combine::concatenate});
  const PlanIndex gemm0 = b.node(OpKind::Gemm, "gemm0", 0, {x, w0, kNone}, {h}, PlanPhase::forward, false, gemm);
  const PlanIndex gemm1 = b.node(OpKind::Gemm, "gemm1", 1, {h1, w1, kNone}, {y}, PlanPhase::forward, false, gemm);
  b.plan.nodes[gemm1].workspace_bytes = 64;
  const PlanIndex copy = b.transfer(h, h1, 0, 1);
  for (int32_t m = 0; m < 2; ++m) {
    b.feed(0, m, 0);
    b.run(gemm0, m);
    b.copy(copy, m);
    b.run(gemm1, m);
    b.fetch(0, m, 1);
  }
  return b.done();
}

Plan training_plan(int32_t microbatches, bool has_tail) {
  constexpr int64_t kRows = 4;
  PlanBuilder b(2, microbatches);
  Plan& p = b.plan;
  p.is_training = true;
  p.has_tail = has_tail;
  p.microbatch_rows = kRows;
  p.batch = kRows * microbatches - (has_tail ? 1 : 0);
  p.model = {"two_layers.onnx", std::string(64, 'b'), {{"x", {p.batch, 4}}}};
  const auto rows = [&](int64_t columns) {
    std::vector<Shape> shapes = {{kRows, columns}};
    if (has_tail) shapes.push_back({kRows - 1, columns});
    return shapes;
  };
  const auto gemm = [](int64_t trans_a, int64_t trans_b) {
    return Attributes{{"alpha", 1.0}, {"beta", 1.0}, {"transA", trans_a}, {"transB", trans_b}};
  };
  const auto parameter = PlanValueKind::parameter;
  const auto forward = PlanPhase::forward;
  const auto input_grad = PlanPhase::input_grad;
  const auto weight_grad = PlanPhase::weight_grad;

  const PlanIndex x = b.value("x", rows(4), PlanValueKind::input);
  const PlanIndex step = b.value("step", {Shape{}}, PlanValueKind::input, true, DType::i64);
  const PlanIndex scale = b.value("learning_rate_scale", {Shape{}}, PlanValueKind::input, true);
  const PlanIndex w0 = b.value("w0", {{4, 5}}, parameter, true);
  const PlanIndex w1 = b.value("w1", {{5, 3}}, parameter, true);
  const PlanIndex two = b.value("two", rows(3), PlanValueKind::constant, true);
  for (const Shape& shape : p.values[two].shapes)
    p.values[two].literals.push_back(Literal::splat_number(DType::f32, shape, 2));
  const PlanIndex h = b.value("h", rows(5));
  const PlanIndex h1 = b.value("h on cpu:1", rows(5));
  const PlanIndex y = b.value("y", rows(3));
  const PlanIndex loss = b.value("loss", {Shape{}});
  const PlanIndex dy = b.value("dy", rows(3));
  const PlanIndex dh = b.value("dh", rows(5));
  const PlanIndex dh0 = b.value("dh on cpu:0", rows(5));
  const PlanIndex dw0 = b.value("dw0", {{4, 5}});
  const PlanIndex dw1 = b.value("dw1", {{5, 3}});
  const auto accumulator = [&](const char* name, PlanValueKind kind, PlanIndex of) {
    const PlanIndex value = b.value(name, p.values[of].shapes, kind, true);
    p.values[value].is_gradient = true;
    if (kind == PlanValueKind::state)
      p.values[value].literals = {Literal::splat_number(DType::f32, p.values[of].shapes[0], 0)};
    return value;
  };
  const PlanIndex acc0 = accumulator("acc0", PlanValueKind::state, w0);
  const PlanIndex acc1 = accumulator("acc1", PlanValueKind::state, w1);
  const PlanIndex sum0 = accumulator("w0 gradient", PlanValueKind::temporary, w0);
  const PlanIndex sum1 = accumulator("w1 gradient", PlanValueKind::temporary, w1);
  const PlanIndex next0 = b.value("w0 next", {{4, 5}}, PlanValueKind::temporary, true);
  const PlanIndex next1 = b.value("w1 next", {{5, 3}}, PlanValueKind::temporary, true);

  p.inputs = {{"x", x, true, PlanInput::Role::data},
              {"step", step, false, PlanInput::Role::step},
              {"learning_rate_scale", scale, false, PlanInput::Role::learning_rate_scale}};
  p.outputs = {{"y", y, PlanOutput::Combine::concatenate}, {"loss", loss, PlanOutput::Combine::sum}};
  p.loss = 1;
  p.updates = {{w0, next0}, {w1, next1}};
  p.gradients = {{w0, sum0}, {w1, sum1}};

  const PlanIndex forward0 = b.node(OpKind::Gemm, "layer0", 0, {x, w0, kNone}, {h}, forward, false, gemm(0, 0));
  const PlanIndex forward1 = b.node(OpKind::Gemm, "layer1", 1, {h1, w1, kNone}, {y}, forward, false, gemm(0, 0));
  const Attributes all = {
      {"axes", std::vector<int64_t>{0, 1}}, {"keepdims", int64_t{0}}, {"noop_with_empty_axes", int64_t{0}}};
  const PlanIndex sum = b.node(OpKind::ReduceSumSquare, "loss", 1, {y}, {loss}, forward, false, all);
  const PlanIndex back_y = b.node(OpKind::Mul, "loss backward", 1, {y, two}, {dy}, input_grad);
  const PlanIndex back_h =
      b.node(OpKind::Gemm, "layer1 backward", 1, {dy, w1, kNone}, {dh}, input_grad, false, gemm(0, 1));
  const PlanIndex back_w1 =
      b.node(OpKind::Gemm, "layer1 weights", 1, {h1, dy, kNone}, {dw1}, weight_grad, false, gemm(1, 0));
  const PlanIndex back_w0 =
      b.node(OpKind::Gemm, "layer0 weights", 0, {x, dh0, kNone}, {dw0}, weight_grad, false, gemm(1, 0));
  const PlanIndex add0 = b.node(OpKind::GradAccumulate, "layer0 sum", 0, {dw0, acc0}, {sum0}, weight_grad);
  const PlanIndex add1 = b.node(OpKind::GradAccumulate, "layer1 sum", 1, {dw1, acc1}, {sum1}, weight_grad);
  const Attributes sgd = {{"lr", 0.125}, {"weight_decay", 0.0}};
  const auto update = PlanPhase::update;
  const PlanIndex update0 =
      b.node(OpKind::SgdUpdate, "layer0 update", 0, {w0, sum0, step, scale}, {next0}, update, true, sgd);
  const PlanIndex update1 =
      b.node(OpKind::SgdUpdate, "layer1 update", 1, {w1, sum1, step, scale}, {next1}, update, true, sgd);
  const PlanIndex copy_h = b.transfer(h, h1, 0, 1);
  const PlanIndex copy_dh = b.transfer(dh, dh0, 1, 0, input_grad);

  for (int device = 0; device < 2; ++device) {
    b.feed(1, kPerStep, device);
    b.feed(2, kPerStep, device);
  }
  for (int32_t m = 0; m < microbatches; ++m) {
    b.feed(0, m, 0);
    b.run(forward0, m);
    b.copy(copy_h, m);
    b.run(forward1, m);
    b.run(sum, m);
    b.fetch(0, m, 1);
    b.fetch(1, m, 1);
  }
  for (int32_t m = 0; m < microbatches; ++m) {
    // Mul is elementwise: dy takes the bytes of y, which is read no more. Device 0 reuses the slice of h.
    b.slice_over(dy, m, b.slice(y, m, 1));
    b.slice_over(dh0, m, b.slice(h, m, 0));
    if (m > 0) b.slice_over(dw1, m, b.slice(dw1, 0, 1));
    b.run(back_y, m);
    b.run(back_h, m);
    b.copy(copy_dh, m);
    b.run(back_w1, m);
    b.run(add1, m);
    b.run(back_w0, m);
    b.run(add0, m);
  }
  b.run(update0, kPerStep);
  b.run(update1, kPerStep);
  return b.done();
}

}  // namespace mpc::test
