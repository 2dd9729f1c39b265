#include "executor/host/program.h"

#include <fmt/format.h>

#include <algorithm>

#include "compiler/base/error.h"
#include "compiler/plan/views.h"
#include "executor/host/threads.h"

namespace mpc::executor {
namespace {

bool overlap(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.data() < b.data() + b.size() && b.data() < a.data() + a.size();
}

NodeSpec::Operand operand_of(const TensorView& view, bool is_constant) {
  return {view.dtype, view.shape, view.data != nullptr, is_constant};
}

}  // namespace

Program::Program(const Plan& plan, std::span<const Arena> arenas, const KernelSource& kernels, bool with_poison)
    : plan_(plan),
      arenas_(arenas),
      bound_(plan.instructions.size()),
      is_updated_(plan.values.size()),
      is_next_(plan.values.size()),
      kept_bytes_(plan.devices.size()) {
  for (const PlanUpdate& update : plan.updates) {
    is_updated_[update.persistent] = true;
    is_next_[update.next] = true;
  }
  for (PlanIndex i = 0; i < bound_.size(); ++i) {
    const Instruction& instruction = plan.instructions[i];
    switch (instruction.action) {
      case Action::run:
        bind_run(i, kernels);
        break;
      case Action::recv:
        bind_recv(i);
        break;
      case Action::send:
        bound_[i].phase = plan.transfers[instruction.index].phase;
        break;
      case Action::feed:
        bound_[i].outputs.push_back(view(instruction.writes.front()));
        break;
      case Action::fetch:
        bound_[i].inputs.push_back(view(instruction.reads.front()));
        break;
      case Action::record:
      case Action::wait:
        break;
    }
  }
  std::stable_sort(choices_.begin(), choices_.end(), [](const Choice& a, const Choice& b) { return a.node < b.node; });
  if (with_poison) find_poison();
}

int Program::variant(PlanIndex slice) const {
  const PlanSlice& s = plan_.slices[slice];
  return s.microbatch == kPerStep ? 0 : plan_.variant_of(s.microbatch);
}

std::span<std::byte> Program::memory(PlanIndex slice) const {
  const PlanSlice& s = plan_.slices[slice];
  const int64_t bytes = s.value == kNone ? s.bytes : plan_.value_bytes(s.value, variant(slice));
  return {arenas_[s.device.index()].data() + s.offset, static_cast<size_t>(bytes)};
}

TensorView Program::view(PlanIndex slice) const {
  if (slice == kNone) return {};
  const PlanValue& value = plan_.values[plan_.slices[slice].value];
  const Shape& shape = value.shapes[value.shapes.size() > 1 ? static_cast<size_t>(variant(slice)) : 0];
  return {value.dtype, shape, memory(slice).data()};
}

void Program::bind_run(PlanIndex index, const KernelSource& kernels) {
  const Instruction& instruction = plan_.instructions[index];
  const PlanNode& node = plan_.nodes[instruction.index];
  Bound& bound = bound_[index];
  for (const PlanIndex slice : instruction.reads) bound.inputs.push_back(view(slice));
  for (const PlanIndex slice : instruction.writes) {
    bound.outputs.push_back(view(slice));
    if (slice == kNone || node.phase != PlanPhase::update) continue;
    bound.is_in_place_update = bound.is_in_place_update || is_next_[plan_.slices[slice].value];
  }
  if (instruction.workspace != kNone) bound.workspace = memory(instruction.workspace);
  const size_t variant = static_cast<size_t>(plan_.variant_of(instruction.microbatch));
  bound.attributes = &node.attributes[node.attributes.size() > 1 ? variant : 0];
  bound.phase = node.phase;
  bound.kernel = kernel_of(instruction, bound, kernels);
}

Kernel* Program::kernel_of(const Instruction& instruction, const Bound& bound, const KernelSource& kernels) {
  const PlanNode& node = plan_.nodes[instruction.index];
  const int variant = instruction.microbatch == kPerStep ? 0 : plan_.variant_of(instruction.microbatch);
  auto& kernel = kernels_[{instruction.index, variant, instruction.queue}];
  if (kernel != nullptr) return kernel.get();

  NodeSpec spec;
  spec.op = node.op;
  spec.attributes = bound.attributes;
  spec.threads = plan_.devices[node.device.index()].threads;
  spec.node = instruction.index;
  spec.device = node.device;
  spec.queue = instruction.queue;
  for (size_t i = 0; i < bound.inputs.size(); ++i) {
    const PlanIndex slice = instruction.reads[i];
    const PlanIndex value = slice == kNone ? kNone : plan_.slices[slice].value;
    const bool is_constant =
        value != kNone && !is_updated_[value] &&
        (plan_.values[value].kind == PlanValueKind::constant || plan_.values[value].kind == PlanValueKind::parameter);
    spec.inputs.push_back(operand_of(bound.inputs[i], is_constant));
  }
  for (const TensorView& output : bound.outputs) spec.outputs.push_back(operand_of(output, false));

  const OpenMpThreads threads(spec.threads);
  KernelOrReason found = kernels(spec);
  MPC_CHECK(found.kernel != nullptr, "a kernel source found no kernel");
  const PlanDevice& device = plan_.devices[node.device.index()];
  int64_t& kept = kept_bytes_[node.device.index()];
  if (device.arena_bytes + kept + found.kernel->kept_bytes() > device.capacity_bytes) {
    for (NodeSpec::Operand& input : spec.inputs) input.is_constant = false;
    found = kernels(spec);
  }
  kept += found.kernel->kept_bytes();
  kernel = std::move(found.kernel);
  choices_.push_back({instruction.index, std::string(kernel->name()), std::move(found.reason)});
  return kernel.get();
}

void Program::bind_recv(PlanIndex index) {
  const Instruction& recv = plan_.instructions[index];
  MPC_CHECK(index > 0, "a recv comes right after its send");
  const Instruction& send = plan_.instructions[index - 1];
  MPC_CHECK(send.action == Action::send && send.index == recv.index && send.reads.size() == recv.writes.size(),
            "a recv comes right after its send");
  bound_[index].phase = plan_.transfers[recv.index].phase;
  for (size_t i = 0; i < recv.writes.size(); ++i) {
    const std::span<std::byte> from = memory(send.reads[i]);
    const std::span<std::byte> to = memory(recv.writes[i]);
    MPC_CHECK(from.size() == to.size(), "a transfer's ends differ in bytes");
    bound_[index].copies.push_back({from.data(), to.data(), static_cast<int64_t>(to.size())});
  }
}

void Program::find_poison() {
  // Only temporaries of one micro-batch: everything else lives on, or is updated in place.
  const auto is_poisoned = [&](PlanIndex slice) {
    if (slice == kNone || plan_.slices[slice].value == kNone) return false;
    const PlanIndex index = plan_.slices[slice].value;
    const PlanValue& value = plan_.values[index];
    return value.kind == PlanValueKind::temporary && !value.per_step && !value.is_gradient && !is_next_[index];
  };
  // A value and its views are one: their bytes are read until the last of them is.
  const std::vector<PlanIndex> origins = origins_of_bytes(plan_);
  std::map<PlanIndex, PlanIndex> viewed;  // slice of a view -> slice of what it is a view of
  const auto owner = [&](PlanIndex slice) {
    const auto found = viewed.find(slice);
    return found == viewed.end() ? slice : found->second;
  };
  constexpr PlanIndex kSeveralQueues = kNone;
  std::map<PlanIndex, std::pair<PlanIndex, PlanIndex>> last_reads;  // slice -> last reading instruction, only queue
  for (PlanIndex i = 0; i < bound_.size(); ++i) {
    const Instruction& instruction = plan_.instructions[i];
    for (const PlanIndex read : instruction.reads) {
      const PlanIndex slice = owner(read);
      if (!is_poisoned(slice)) continue;
      const auto [found, is_new] = last_reads.try_emplace(slice, i, instruction.queue);
      if (!is_new && found->second.second != instruction.queue) found->second.second = kSeveralQueues;
      found->second.first = i;
    }
    if (is_view(plan_, origins, instruction)) viewed[instruction.writes[0]] = owner(instruction.reads[0]);
    if (instruction.action != Action::run && instruction.action != Action::recv) continue;
    for (const PlanIndex slice : instruction.writes) {
      if (!is_poisoned(slice)) continue;
      const bool is_shared = std::any_of(instruction.reads.begin(), instruction.reads.end(), [&](PlanIndex read) {
        return read != kNone && instruction.action == Action::run && overlap(memory(read), memory(slice));
      });
      if (!is_shared) bound_[i].poison_before.push_back(memory(slice));
    }
  }
  for (const auto& [slice, last] : last_reads) {
    const Instruction& reader = plan_.instructions[last.first];
    // A reader on another queue may still be at work; a send's bytes leave with its recv.
    if (last.second == kSeveralQueues || reader.action == Action::send) continue;
    const bool is_shared = std::any_of(reader.writes.begin(), reader.writes.end(), [&](PlanIndex write) {
      return write != kNone && overlap(memory(write), memory(slice));
    });
    if (!is_shared) bound_[last.first].poison_after.push_back(memory(slice));
  }
}

std::span<std::byte> Program::arena(DeviceId device) const {
  const Arena& arena = arenas_[device.index()];
  return {arena.data(), static_cast<size_t>(arena.bytes())};
}

void Program::forget_constants() {
  for (auto& [key, kernel] : kernels_) kernel->forget_constants();
}

std::string Program::describe(PlanIndex index) const {
  const Instruction& instruction = plan_.instructions[index];
  switch (instruction.action) {
    case Action::run: {
      const PlanNode& node = plan_.nodes[instruction.index];
      return node.origin.empty() ? fmt::format("{} ({})", node.name, op_name(node.op)) : node.origin;
    }
    case Action::send:
    case Action::recv:
      return fmt::format("transfer \"{}\"", plan_.transfers[instruction.index].name);
    case Action::feed:
      return fmt::format("input \"{}\"", plan_.inputs[instruction.index].name);
    case Action::fetch:
      return fmt::format("output \"{}\"", plan_.outputs[instruction.index].name);
    case Action::record:
    case Action::wait:
      break;
  }
  return fmt::format("event {}", instruction.index);
}

}  // namespace mpc::executor
