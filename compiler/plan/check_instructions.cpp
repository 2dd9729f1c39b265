#include <algorithm>
#include <tuple>

#include <fmt/format.h>

#include "compiler/plan/check_parts.h"

namespace mpc::plan_check {
namespace {

class Instructions {
 public:
  explicit Instructions(const Plan& plan) : plan_(plan), is_recorded_(plan.event_count, false) {}

  void check() {
    for (PlanIndex i = 0; i < plan_.instructions.size(); ++i) {
      check_indices(i);
      check_one(i, plan_.instructions[i]);
    }
    check_counts();
    const auto missing = std::ranges::find(is_recorded_, false);
    if (missing != is_recorded_.end()) {
      refuse("plan", fmt::format("event {} is never recorded", missing - is_recorded_.begin()));
    }
  }

 private:
  size_t table_count(Action action) const {
    switch (action) {
      case Action::run:
        return plan_.nodes.size();
      case Action::send:
      case Action::recv:
        return plan_.transfers.size();
      case Action::feed:
        return plan_.inputs.size();
      case Action::fetch:
        return plan_.outputs.size();
      case Action::record:
      case Action::wait:
        return plan_.event_count;
    }
    return 0;
  }

  // After this the instruction can be named in messages.
  void check_indices(PlanIndex i) const {
    const Instruction& instruction = plan_.instructions[i];
    const std::string where = fmt::format("instruction {} ({})", i, action_name(instruction.action));
    if (instruction.queue >= plan_.queues.size()) {
      refuse(where, fmt::format("is on queue {}, the plan has {}", instruction.queue, plan_.queues.size()));
    }
    if (instruction.index >= table_count(instruction.action)) {
      refuse(where,
             fmt::format("its index is {}, must be in [0, {})", instruction.index, table_count(instruction.action)));
    }
    if (instruction.microbatch < kPerStep || instruction.microbatch >= plan_.microbatches) {
      refuse(where, fmt::format("is of micro-batch {}, the plan has {}", instruction.microbatch, plan_.microbatches));
    }
    for (const auto* slices : {&instruction.reads, &instruction.writes}) {
      for (const PlanIndex slice : *slices) {
        if (slice != kNone && slice >= plan_.slices.size()) {
          refuse(where, fmt::format("names slice {}, the plan has {}", slice, plan_.slices.size()));
        }
      }
    }
    if (instruction.workspace != kNone && instruction.workspace >= plan_.slices.size()) {
      refuse(where, fmt::format("names slice {}, the plan has {}", instruction.workspace, plan_.slices.size()));
    }
    if (!is_cost(instruction.start_s)) refuse(where, fmt::format("start_s is {}", instruction.start_s));
  }

  void check_one(PlanIndex i, const Instruction& instruction) {
    if (instruction.action != Action::run && instruction.workspace != kNone) fail(i, "only a node has a workspace");
    switch (instruction.action) {
      case Action::run:
        return check_run(i, instruction);
      case Action::send:
        return check_send(i, instruction);
      case Action::recv:
        return check_recv(i, instruction);
      case Action::feed:
        return check_feed(i, instruction);
      case Action::fetch:
        return check_fetch(i, instruction);
      case Action::record:
      case Action::wait:
        return check_event(i, instruction);
    }
  }

  void check_run(PlanIndex i, const Instruction& instruction) {
    const PlanNode& node = plan_.nodes[instruction.index];
    check_queue(i, QueueKind::compute, node.device, DeviceId{});
    check_rate(i, node.per_step);
    // In the first micro-batch GradAccumulate stores: it has no sum to read.
    const bool is_store = node.op == OpKind::GradAccumulate && instruction.microbatch == 0 &&
                          instruction.reads.size() >= 2 && instruction.reads[1] == kNone;
    std::vector<PlanIndex> inputs = node.inputs;
    if (is_store) inputs[1] = kNone;
    check_slices(i, instruction.reads, inputs, node.device);
    check_slices(i, instruction.writes, node.outputs, node.device);
    for (size_t output = 0; output < node.outputs.size(); ++output) {
      const auto aliased = aliased_input(node.op, static_cast<int>(output));
      if (!aliased || node.outputs[output] == kNone) continue;
      if (is_store && *aliased == 1) continue;
      const PlanSlice& old = plan_.slices[instruction.reads[static_cast<size_t>(*aliased)]];
      const PlanSlice& next = plan_.slices[instruction.writes[output]];
      if (old.offset != next.offset || old.bytes != next.bytes) {
        fail(i, fmt::format("{} is updated in place, so {} must have its range", value_text(plan_, old.value),
                            value_text(plan_, next.value)));
      }
    }
    if ((instruction.workspace == kNone) != (node.workspace_bytes == 0))
      fail(i, "has a workspace when its node needs none, or none");
    if (instruction.workspace == kNone) return;
    const PlanSlice& workspace = plan_.slices[instruction.workspace];
    if (workspace.value != kNone || workspace.device != node.device || workspace.bytes < node.workspace_bytes) {
      fail(i, fmt::format("its workspace must be {} bytes of its device that hold no value", node.workspace_bytes));
    }
  }

  void check_send(PlanIndex i, const Instruction& instruction) {
    const PlanTransfer& transfer = plan_.transfers[instruction.index];
    check_queue(i, QueueKind::send, transfer.from, transfer.to);
    check_rate(i, transfer.per_step);
    check_slices(i, instruction.reads, transfer.sources, transfer.from);
    check_slices(i, instruction.writes, {}, transfer.from);
    const bool is_matched = i + 1 < plan_.instructions.size() && is_pair(instruction, plan_.instructions[i + 1]);
    if (!is_matched) fail(i, "is not followed by the recv of the same transfer and micro-batch");
  }

  void check_recv(PlanIndex i, const Instruction& instruction) {
    const PlanTransfer& transfer = plan_.transfers[instruction.index];
    check_queue(i, QueueKind::recv, transfer.to, transfer.from);
    check_slices(i, instruction.reads, {}, transfer.to);
    check_slices(i, instruction.writes, transfer.destinations, transfer.to);
    if (i == 0 || !is_pair(plan_.instructions[i - 1], instruction)) {
      fail(i, "does not follow the send of the same transfer and micro-batch");
    }
  }

  static bool is_pair(const Instruction& send, const Instruction& recv) {
    return send.action == Action::send && recv.action == Action::recv && send.index == recv.index &&
           send.microbatch == recv.microbatch;
  }

  void check_feed(PlanIndex i, const Instruction& instruction) {
    const PlanIndex value = plan_.inputs[instruction.index].value;
    const DeviceId device = plan_.queues[instruction.queue].device;
    check_queue(i, QueueKind::compute, device, DeviceId{});
    check_rate(i, plan_.values[value].per_step);
    check_slices(i, instruction.reads, {}, device);
    check_slices(i, instruction.writes, {value}, device);
  }

  void check_fetch(PlanIndex i, const Instruction& instruction) {
    const PlanIndex value = plan_.outputs[instruction.index].value;
    const DeviceId device = plan_.queues[instruction.queue].device;
    check_queue(i, QueueKind::compute, device, DeviceId{});
    check_rate(i, plan_.values[value].per_step);
    check_slices(i, instruction.reads, {value}, device);
    check_slices(i, instruction.writes, {}, device);
  }

  void check_event(PlanIndex i, const Instruction& instruction) {
    if (!instruction.reads.empty() || !instruction.writes.empty()) fail(i, "an event touches no slices");
    if (instruction.action == Action::record) {
      if (is_recorded_[instruction.index]) fail(i, "the event is recorded twice");
      is_recorded_[instruction.index] = true;
      if (recorded_on_.empty()) recorded_on_.resize(plan_.event_count);
      recorded_on_[instruction.index] = instruction.queue;
      return;
    }
    if (!is_recorded_[instruction.index]) fail(i, "waits for an event that is not recorded before it");
    if (recorded_on_[instruction.index] == instruction.queue) fail(i, "waits for an event of its own queue");
  }

  void check_queue(PlanIndex i, QueueKind kind, DeviceId device, DeviceId peer) const {
    const PlanQueue& queue = plan_.queues[plan_.instructions[i].queue];
    if (queue.kind == kind && queue.device == device && queue.peer == peer) return;
    fail(i, fmt::format("belongs on the {} queue of {}", queue_kind_name(kind), device_text(plan_, device)));
  }

  void check_rate(PlanIndex i, bool per_step) const {
    if ((plan_.instructions[i].microbatch == kPerStep) == per_step) return;
    fail(i, per_step ? "happens once per step, not for a micro-batch" : "happens for a micro-batch");
  }

  // Each operand's slice must be of that value, of the right instance, on that device.
  void check_slices(PlanIndex i, const std::vector<PlanIndex>& slices, const std::vector<PlanIndex>& values,
                    DeviceId device) const {
    if (slices.size() != values.size())
      fail(i, fmt::format("names {} slices for {} operands", slices.size(), values.size()));
    for (size_t k = 0; k < values.size(); ++k) {
      if (values[k] == kNone && slices[k] == kNone) continue;
      const PlanIndex value = values[k];
      const bool is_right =
          value != kNone && slices[k] != kNone && plan_.slices[slices[k]].value == value &&
          plan_.slices[slices[k]].device == device &&
          plan_.slices[slices[k]].microbatch == plan_.instance_of(value, plan_.instructions[i].microbatch);
      if (is_right) continue;
      fail(i, value == kNone ? fmt::format("operand {} is absent, but has a slice", k)
                             : fmt::format("operand {} is not the slice of {}{} on {}", k, value_text(plan_, value),
                                           microbatch_text(plan_.instance_of(value, plan_.instructions[i].microbatch)),
                                           device_text(plan_, device)));
    }
  }

  // Everything that must happen happens once: no two alike, and as many as needed.
  void check_counts() const {
    using Key = std::tuple<Action, PlanIndex, int32_t, uint32_t, PlanIndex>;  // device of a feed; instruction
    std::vector<Key> keys;
    std::vector<int64_t> runs(plan_.nodes.size(), 0), sends(plan_.transfers.size(), 0),
        fetches(plan_.outputs.size(), 0);
    std::vector<bool> is_fed(plan_.slices.size(), false);
    for (PlanIndex i = 0; i < plan_.instructions.size(); ++i) {
      const Instruction& instruction = plan_.instructions[i];
      const bool is_feed = instruction.action == Action::feed;
      if (instruction.action == Action::record || instruction.action == Action::wait) continue;
      if (instruction.action == Action::run) ++runs[instruction.index];
      if (instruction.action == Action::send) ++sends[instruction.index];
      if (instruction.action == Action::fetch) ++fetches[instruction.index];
      if (is_feed) is_fed[instruction.writes[0]] = true;
      keys.emplace_back(instruction.action, instruction.index, instruction.microbatch,
                        is_feed ? plan_.queues[instruction.queue].device.index() : 0, i);
    }
    std::ranges::sort(keys);
    for (size_t k = 1; k < keys.size(); ++k) {
      const auto head = [](const Key& key) { return std::tuple(get<0>(key), get<1>(key), get<2>(key), get<3>(key)); };
      if (head(keys[k - 1]) == head(keys[k]))
        fail(get<4>(keys[k]), fmt::format("repeats instruction {}", get<4>(keys[k - 1])));
    }
    const auto expected = [&](bool per_step) { return per_step ? int64_t{1} : int64_t{plan_.microbatches}; };
    for (PlanIndex n = 0; n < plan_.nodes.size(); ++n) {
      require(runs[n], expected(plan_.nodes[n].per_step), "runs", node_text(plan_, n));
    }
    for (PlanIndex t = 0; t < plan_.transfers.size(); ++t) {
      require(sends[t], expected(plan_.transfers[t].per_step), "is sent", transfer_text(plan_, t));
    }
    for (PlanIndex o = 0; o < plan_.outputs.size(); ++o) {
      const bool per_step = plan_.values[plan_.outputs[o].value].per_step;
      require(fetches[o], expected(per_step), "is fetched", fmt::format("output '{}'", plan_.outputs[o].name));
    }
    for (size_t s = 0; s < plan_.slices.size(); ++s) {
      const PlanSlice& slice = plan_.slices[s];
      if (slice.value == kNone || plan_.values[slice.value].kind != PlanValueKind::input || is_fed[s]) continue;
      refuse(value_text(plan_, slice.value) + microbatch_text(slice.microbatch),
             fmt::format("is never fed to {}", device_text(plan_, slice.device)));
    }
  }

  static void require(int64_t found, int64_t expected, std::string_view verb, const std::string& where) {
    if (found != expected) refuse(where, fmt::format("{} {} times per step, must be {}", verb, found, expected));
  }

  [[noreturn]] void fail(PlanIndex i, const std::string& what) const { refuse(instruction_text(plan_, i), what); }

  const Plan& plan_;
  std::vector<bool> is_recorded_;
  std::vector<PlanIndex> recorded_on_;
};

}  // namespace

void check_instructions(const Plan& plan) {
  Instructions(plan).check();
}

}  // namespace mpc::plan_check
