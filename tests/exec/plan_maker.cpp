#include "tests/exec/plan_maker.h"

#include <optional>

#include "compiler/base/checked.h"

namespace mpc::test {
namespace {

constexpr uint32_t kNoPeer = 0;

}  // namespace

PlanMaker::PlanMaker(int device_count, int32_t microbatches, int64_t batch, int64_t microbatch_rows) {
  plan.microbatches = microbatches;
  plan.batch = batch;
  plan.microbatch_rows = microbatch_rows;
  plan.has_tail = batch != microbatches * microbatch_rows;
  plan.schedule = "sequential";
  plan.objective = "throughput";
  plan.model.path = "made.onnx";
  plan.model.sha256 = std::string(64, '0');
  for (int d = 0; d < device_count; ++d) {
    PlanDevice device;
    device.name = "cpu:" + std::to_string(d);
    device.backend = "cpu";
    device.hardware = "cpu";
    plan.devices.push_back(device);
  }
  for (int from = 0; from < device_count; ++from) {
    for (int to = 0; to < device_count; ++to) {
      if (from != to) plan.links.push_back({DeviceId(from), DeviceId(to), 1e9, 1e-6});
    }
  }
}

PlanIndex PlanMaker::add_value(PlanValue value, const Dims& dims) {
  for (int variant = 0; variant < (value.per_step ? 1 : plan.variant_count()); ++variant) {
    Dims actual = dims;
    for (int64_t& dim : actual) {
      if (dim == kRows) dim = plan.rows_of(variant == 0 ? 0 : plan.microbatches - 1);
    }
    value.shapes.push_back(Shape(actual));
  }
  plan.values.push_back(std::move(value));
  return static_cast<PlanIndex>(plan.values.size() - 1);
}

PlanIndex PlanMaker::input(const std::string& name, DType dtype, const Dims& dims) {
  PlanValue value;
  value.name = name;
  value.dtype = dtype;
  value.kind = PlanValueKind::input;
  const PlanIndex index = add_value(value, dims);
  plan.inputs.push_back({name, index, true, PlanInput::Role::data});
  return index;
}

PlanIndex PlanMaker::supplied(const std::string& name, PlanInput::Role role, DType dtype) {
  PlanValue value;
  value.name = name;
  value.dtype = dtype;
  value.kind = PlanValueKind::input;
  value.per_step = true;
  const PlanIndex index = add_value(value, {});
  plan.inputs.push_back({name, index, false, role});
  return index;
}

PlanIndex PlanMaker::parameter(const std::string& name, const Dims& dims) {
  PlanValue value;
  value.name = name;
  value.kind = PlanValueKind::parameter;
  value.per_step = true;
  value.source = name;
  return add_value(value, dims);
}

PlanIndex PlanMaker::state(const std::string& name, const Literal& content) {
  PlanValue value;
  value.name = name;
  value.dtype = content.dtype();
  value.kind = PlanValueKind::state;
  value.per_step = true;
  value.literals = {content};
  return add_value(value, content.shape().to_vector());
}

PlanIndex PlanMaker::constant(const std::string& name, const Literal& content) {
  PlanValue value;
  value.name = name;
  value.dtype = content.dtype();
  value.kind = PlanValueKind::constant;
  value.per_step = true;
  value.literals = {content};
  return add_value(value, content.shape().to_vector());
}

PlanIndex PlanMaker::node(OpKind op, const std::string& name, int device, const std::vector<PlanIndex>& inputs,
                          const Dims& dims, const NodeOptions& options) {
  const bool is_accumulator = op == OpKind::GradAccumulate;
  PlanValue value;
  value.name = name;
  value.dtype = options.dtype;
  value.per_step = options.per_step || is_accumulator;
  value.is_gradient = is_accumulator;
  const PlanIndex out = add_value(value, dims);
  PlanNode node;
  node.op = op;
  node.name = name;
  node.origin = "made/" + name;
  node.phase = options.phase;
  node.device = DeviceId(device);
  node.per_step = options.per_step;
  node.attributes.assign(static_cast<size_t>(plan.variant_count()), options.attributes);
  node.inputs = inputs;
  node.outputs = {out};
  node.flops.assign(static_cast<size_t>(plan.variant_count()), 0);
  node.seconds.assign(static_cast<size_t>(plan.variant_count()), 0);
  plan.nodes.push_back(node);
  device_of_[out] = static_cast<uint32_t>(device);
  return out;
}

void PlanMaker::output(const std::string& name, PlanIndex value, PlanOutput::Combine combine) {
  plan.outputs.push_back({name, value, combine});
}

PlanIndex PlanMaker::slice_of(PlanIndex value, int32_t microbatch, uint32_t device) {
  const PlanValue& v = plan.values[value];
  if (v.per_step) microbatch = kPerStep;
  const auto [found, is_new] =
      slices_.try_emplace({value, microbatch, device}, static_cast<PlanIndex>(plan.slices.size()));
  if (!is_new) return found->second;
  PlanSlice slice;
  slice.value = value;
  slice.microbatch = microbatch;
  slice.device = DeviceId(device);
  slice.bytes = plan.value_bytes(value, microbatch == kPerStep ? 0 : plan.variant_of(microbatch));
  int64_t& arena_bytes = plan.devices[device].arena_bytes;
  slice.offset = arena_bytes;
  arena_bytes = align_up(arena_bytes + slice.bytes, kSliceAlignment);
  plan.slices.push_back(slice);
  return found->second;
}

PlanIndex PlanMaker::queue_of(uint32_t device, QueueKind kind, uint32_t peer) {
  if (kind == QueueKind::compute) peer = kNoPeer;
  const auto [found, is_new] = queues_.try_emplace({device, kind, peer}, static_cast<PlanIndex>(plan.queues.size()));
  if (is_new) {
    plan.queues.push_back({DeviceId(device), kind, kind == QueueKind::compute ? DeviceId() : DeviceId(peer)});
  }
  return found->second;
}

Instruction& PlanMaker::emit(Action action, PlanIndex queue, PlanIndex index, int32_t microbatch) {
  Instruction instruction;
  instruction.action = action;
  instruction.queue = queue;
  instruction.index = index;
  instruction.microbatch = microbatch;
  plan.instructions.push_back(instruction);
  return plan.instructions.back();
}

void PlanMaker::order_queues(PlanIndex first, PlanIndex second) {
  const PlanIndex event = plan.event_count++;
  emit(Action::record, first, event, kPerStep);
  emit(Action::wait, second, event, kPerStep);
}

PlanIndex PlanMaker::local_copy(PlanIndex value, int32_t microbatch, uint32_t device) {
  const PlanValue& v = plan.values[value];
  if (v.per_step) microbatch = kPerStep;
  const PlanIndex compute = queue_of(device, QueueKind::compute, 0);
  if (v.kind == PlanValueKind::input) {
    const PlanIndex slice = slice_of(value, microbatch, device);
    if (is_there_[{value, microbatch, device}]) return slice;
    is_there_[{value, microbatch, device}] = true;
    PlanIndex index = 0;
    while (plan.inputs[index].value != value) ++index;
    emit(Action::feed, compute, index, microbatch).writes = {slice};
    return slice;
  }
  const auto producer = device_of_.find(value);
  if (producer == device_of_.end() || producer->second == device) return slice_of(value, microbatch, device);
  const PlanIndex copy = copies_.at({value, device});
  if (!is_there_[{copy, microbatch, device}]) {
    is_there_[{copy, microbatch, device}] = true;
    send(value, copy, microbatch, device);
  }
  return slice_of(copy, microbatch, device);
}

void PlanMaker::send(PlanIndex value, PlanIndex copy, int32_t microbatch, uint32_t device) {
  const uint32_t from = device_of_.at(value);
  const PlanIndex transfer = transfers_.at({value, device});
  const PlanIndex sender = queue_of(from, QueueKind::send, device);
  const PlanIndex receiver = queue_of(device, QueueKind::recv, from);
  order_queues(queue_of(from, QueueKind::compute, 0), sender);
  emit(Action::send, sender, transfer, microbatch).reads = {slice_of(value, microbatch, from)};
  emit(Action::recv, receiver, transfer, microbatch).writes = {slice_of(copy, microbatch, device)};
  order_queues(receiver, queue_of(device, QueueKind::compute, 0));
}

void PlanMaker::run(PlanIndex index, int32_t microbatch) {
  const PlanNode node = plan.nodes[index];
  const uint32_t device = node.device.index();
  std::vector<PlanIndex> reads;
  for (const PlanIndex value : operands_[index]) {
    reads.push_back(value == kNone ? kNone : local_copy(value, microbatch, device));
  }
  const PlanIndex out = slice_of(node.outputs[0], microbatch, device);
  if (const std::optional<int> alias = aliased_input(node.op, 0)) {
    plan.slices[out].offset = plan.slices[reads[static_cast<size_t>(*alias)]].offset;
  }
  Instruction& instruction = emit(Action::run, queue_of(device, QueueKind::compute, 0), index, microbatch);
  instruction.reads = reads;
  instruction.writes = {out};
}

void PlanMaker::fetch(PlanIndex value, int32_t microbatch) {
  for (PlanIndex o = 0; o < plan.outputs.size(); ++o) {
    if (plan.outputs[o].value != value) continue;
    const uint32_t device = device_of_.at(value);
    emit(Action::fetch, queue_of(device, QueueKind::compute, 0), o, microbatch).reads = {
        slice_of(value, microbatch, device)};
  }
}

void PlanMaker::collect_transfers() {
  for (const PlanNode& node : plan.nodes) operands_.push_back(node.inputs);
  for (const PlanNode& node : std::vector<PlanNode>(plan.nodes)) {
    for (const PlanIndex value : node.inputs) {
      const uint32_t device = node.device.index();
      if (value == kNone || !device_of_.contains(value) || device_of_[value] == device) continue;
      if (copies_.contains({value, device})) continue;
      PlanValue copy = plan.values[value];
      copy.name += "@" + std::to_string(device);
      copy.is_gradient = false;
      plan.values.push_back(copy);
      const PlanIndex copy_index = static_cast<PlanIndex>(plan.values.size() - 1);
      copies_[{value, device}] = copy_index;
      transfers_[{value, device}] = static_cast<PlanIndex>(plan.transfers.size());
      PlanTransfer transfer;
      transfer.name = "move/" + copy.name;
      transfer.from = DeviceId(device_of_[value]);
      transfer.to = DeviceId(device);
      transfer.phase = node.phase;
      transfer.per_step = copy.per_step;
      transfer.sources = {value};
      transfer.destinations = {copy_index};
      transfer.seconds.assign(static_cast<size_t>(plan.variant_count()), 0);
      plan.transfers.push_back(transfer);
    }
  }
}

void PlanMaker::read_copies() {
  for (PlanNode& node : plan.nodes) {
    for (PlanIndex& value : node.inputs) {
      const auto copy = copies_.find({value, node.device.index()});
      if (copy != copies_.end()) value = copy->second;
    }
  }
}

Plan PlanMaker::finish() {
  collect_transfers();
  read_copies();
  const auto is_step_value = [&](PlanIndex value) { return plan.values[value].per_step; };
  for (int32_t microbatch = 0; microbatch < plan.microbatches; ++microbatch) {
    for (PlanIndex n = 0; n < plan.nodes.size(); ++n) {
      if (plan.nodes[n].per_step) continue;
      run(n, microbatch);
      const PlanIndex out = plan.nodes[n].outputs[0];
      if (!is_step_value(out)) fetch(out, microbatch);
    }
  }
  for (PlanIndex n = 0; n < plan.nodes.size(); ++n) {
    if (plan.nodes[n].per_step) run(n, kPerStep);
    const PlanIndex out = plan.nodes[n].outputs[0];
    if (is_step_value(out)) fetch(out, kPerStep);
  }
  for (PlanDevice& device : plan.devices) device.capacity_bytes = device.arena_bytes;
  return plan;
}

}  // namespace mpc::test
