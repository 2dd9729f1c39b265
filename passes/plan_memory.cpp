#include "passes/plan_memory.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>

#include "compiler/base/checked.h"
#include "compiler/base/error.h"
#include "compiler/plan/slices.h"
#include "compiler/plan/views.h"
#include "passes/order_queues.h"
#include "passes/stretch_lives.h"

namespace mpc {
namespace {

// The begin of a buffer that is there before the first instruction.
constexpr int64_t kAlways = -1;
// What may be wasted: a share of the bytes that live at once, and more where queues wait less for it. Both together
// are less than the 2 % that the sample models are held to.
constexpr int64_t kWastedShare = 100;
constexpr int64_t kApartShare = 110;
// The same of one of many plans that does not fit, however it is packed: it only tells how much there is too much.
constexpr int64_t kWastedShareInVain = 20;

class MemoryPlanner {
 public:
  MemoryPlanner(Plan& plan, PackEffort effort)
      : plan_(plan),
        effort_(effort),
        origins_(origins_of_bytes(plan)),
        buffer_of_slice_(plan.slices.size(), -1),
        first_(plan.slices.size(), -1),
        last_(plan.slices.size(), -1) {}

  std::vector<int64_t> run() {
    find_lifetimes();
    find_persistent_roots();
    make_buffers();
    if (plan_.devices.size() > 1) find_order();
    std::vector<int64_t> live_peaks;
    for (size_t d = 0; d < plan_.devices.size(); ++d) live_peaks.push_back(place_device(DeviceId(d)));
    return live_peaks;
  }

 private:
  void find_lifetimes() {
    for (size_t i = 0; i < plan_.instructions.size(); ++i) {
      for_each_slice(plan_.instructions[i], [&](PlanIndex s) {
        if (first_[s] < 0) first_[s] = static_cast<int64_t>(i);
        last_[s] = static_cast<int64_t>(i);
      });
    }
    // A send may read until its recv, the next instruction, is done.
    for (size_t i = 0; i < plan_.instructions.size(); ++i) {
      if (plan_.instructions[i].action != Action::send) continue;
      for (const PlanIndex s : plan_.instructions[i].reads) last_[s] = std::max(last_[s], static_cast<int64_t>(i) + 1);
    }
  }

  bool is_persistent(PlanIndex slice) const {
    const PlanIndex value = plan_.slices[slice].value;
    if (value == kNone) return false;
    const PlanValueKind kind = plan_.values[value].kind;
    // An update on its own (Session::update) reads the step's inputs without being fed again.
    if (kind == PlanValueKind::input) return plan_.values[value].per_step;
    // A gradient that is a sum of accumulators is read after the step, too.
    if (plan_.values[value].is_gradient && in_place_of_[slice] == kNone) return true;
    return kind == PlanValueKind::parameter || kind == PlanValueKind::state || kind == PlanValueKind::constant;
  }

  // A value that replaces a persistent one shares its buffer: follow in-place operands to the persistent slice.
  void find_persistent_roots() {
    in_place_of_.assign(plan_.slices.size(), kNone);
    std::map<std::pair<PlanIndex, DeviceId>, PlanIndex> slice_of;  // per-step values
    for (PlanIndex s = 0; s < plan_.slices.size(); ++s) {
      const PlanSlice& slice = plan_.slices[s];
      if (slice.value != kNone && slice.microbatch == kPerStep) slice_of[{slice.value, slice.device}] = s;
    }
    for (const PlanNode& node : plan_.nodes) {
      for (size_t i = 0; i < node.outputs.size(); ++i) {
        const auto input = aliased_input(node.op, static_cast<int>(i));
        if (!input || node.outputs[i] == kNone) continue;
        const auto output_slice = slice_of.find({node.outputs[i], node.device});
        if (output_slice == slice_of.end()) continue;
        auto input_slice = slice_of.find({node.inputs[static_cast<size_t>(*input)], node.device});
        if (input_slice == slice_of.end()) {
          // With one micro-batch nothing reads the accumulator, but it is still what the gradient lives in.
          input_slice = slice_of
                            .emplace(std::pair(node.inputs[static_cast<size_t>(*input)], node.device),
                                     add_slice(node.inputs[static_cast<size_t>(*input)], node.device))
                            .first;
        }
        in_place_of_[output_slice->second] = input_slice->second;
      }
    }
  }

  PlanIndex add_slice(PlanIndex value, DeviceId device) {
    const auto index = static_cast<PlanIndex>(plan_.slices.size());
    plan_.slices.push_back({value, kPerStep, device, 0, plan_.value_bytes(value, 0)});
    buffer_of_slice_.push_back(-1);
    first_.push_back(-1);
    last_.push_back(-1);
    in_place_of_.push_back(kNone);
    return index;
  }

  PlanIndex root(PlanIndex slice) const {
    while (in_place_of_[slice] != kNone) slice = in_place_of_[slice];
    return slice;
  }

  int new_buffer(PlanIndex slice) {
    Block buffer;
    buffer.bytes = align_up(std::max<int64_t>(plan_.slices[slice].bytes, 1), kSliceAlignment);
    buffer.begin = first_[slice];
    buffer.end = last_[slice];
    buffers_.push_back(buffer);
    device_of_buffer_.push_back(plan_.slices[slice].device);
    return static_cast<int>(buffers_.size()) - 1;
  }

  void make_buffers() {
    for (PlanIndex s = 0; s < plan_.slices.size(); ++s) {
      if (is_persistent(s)) assign_persistent(s);
    }
    for (PlanIndex s = 0; s < plan_.slices.size(); ++s) {
      if (root(s) != s && is_persistent(root(s))) buffer_of_slice_[s] = buffer_of_slice_[root(s)];
    }
    for (const Instruction& instruction : plan_.instructions) {
      if (instruction.action == Action::run) reuse_accumulator(instruction);
    }
    for (size_t i = 0; i < plan_.instructions.size(); ++i) {
      const Instruction& instruction = plan_.instructions[i];
      for (const PlanIndex s : instruction.writes) {
        if (s == kNone || buffer_of_slice_[s] >= 0) continue;
        int shared = viewed_operand(instruction, s);
        if (shared < 0) shared = dying_operand(instruction, s, static_cast<int64_t>(i));
        buffer_of_slice_[s] = shared >= 0 ? shared : new_buffer(s);
        Block& buffer = buffers_[static_cast<size_t>(buffer_of_slice_[s])];
        buffer.end = std::max(buffer.end, last_[s]);
      }
      if (instruction.workspace != kNone) buffer_of_slice_[instruction.workspace] = new_buffer(instruction.workspace);
    }
  }

  void assign_persistent(PlanIndex slice) {
    buffer_of_slice_[slice] = new_buffer(slice);
    Block& buffer = buffers_[static_cast<size_t>(buffer_of_slice_[slice])];
    buffer.begin = kAlways;
    buffer.end = std::numeric_limits<int64_t>::max();
  }

  // In the first micro-batch GradAccumulate only stores (the factors of a product aside): what it stores may be made in
  // the accumulator's own bytes, and so may what it is a view of.
  void reuse_accumulator(const Instruction& run) {
    const PlanNode& node = plan_.nodes[run.index];
    if (node.op != OpKind::GradAccumulate || run.reads.size() > 2 || run.reads[1] != kNone) return;
    const PlanIndex gradient = run.reads[0];
    const PlanSlice& slice = plan_.slices[gradient];
    if (is_persistent(gradient) || slice.microbatch == kPerStep || buffer_of_slice_[gradient] >= 0) return;
    if (plan_.values[slice.value].kind != PlanValueKind::temporary) return;
    if (&plan_.instructions[static_cast<size_t>(last_[gradient])] != &run) return;
    if (plan_.instructions[static_cast<size_t>(first_[gradient])].action != Action::run) return;
    buffer_of_slice_[gradient] = buffer_of_slice_[run.writes[0]];
    reuse_for_viewed(gradient);
  }

  // A value that was only made to be viewed as `slice` may be made where that lies.
  void reuse_for_viewed(PlanIndex slice) {
    const int64_t made = first_[slice];
    const Instruction& instruction = plan_.instructions[static_cast<size_t>(made)];
    if (!hands_on_bytes(plan_.nodes[instruction.index].op)) return;
    const PlanIndex from = instruction.reads[0];
    const bool is_one = origins_[plan_.slices[from].value] == origins_[plan_.slices[slice].value];
    if (!is_one || last_[from] != made || buffer_of_slice_[from] >= 0) return;
    if (plan_.instructions[static_cast<size_t>(first_[from])].action != Action::run) return;
    buffer_of_slice_[from] = buffer_of_slice_[slice];
    reuse_for_viewed(from);
  }

  // The buffer of the operand whose bytes the op hands on, or -1. A gradient in the bytes of its accumulator is soon
  // another value there.
  int viewed_operand(const Instruction& instruction, PlanIndex written) const {
    if (instruction.action != Action::run || !hands_on_bytes(plan_.nodes[instruction.index].op)) return -1;
    const PlanIndex from = instruction.reads[0];
    const int buffer = buffer_of_slice_[from];
    const bool is_same = origins_[plan_.slices[from].value] == origins_[plan_.slices[written].value];
    return is_same && buffer >= 0 && buffers_[static_cast<size_t>(buffer)].begin != kAlways ? buffer : -1;
  }

  // The buffer of an operand that dies at instruction i and that the op may write over, or -1.
  int dying_operand(const Instruction& instruction, PlanIndex written, int64_t i) const {
    if (instruction.action != Action::run || op_share(plan_.nodes[instruction.index].op) != Share::kElementwise)
      return -1;
    const PlanSlice& to = plan_.slices[written];
    for (const PlanIndex s : instruction.reads) {
      if (s == kNone || last_[s] != i || buffer_of_slice_[s] < 0) continue;
      const Block& buffer = buffers_[static_cast<size_t>(buffer_of_slice_[s])];
      const PlanSlice& from = plan_.slices[s];
      const bool same_type = from.bytes == to.bytes && plan_.values[from.value].dtype == plan_.values[to.value].dtype;
      if (!same_type || buffer.end != i || to.bytes == 0) continue;
      const auto is_in_buffer = [&](PlanIndex other) {
        return other != kNone && buffer_of_slice_[other] == buffer_of_slice_[s];
      };
      if (std::ranges::count_if(instruction.reads, is_in_buffer) > 1) continue;
      bool is_taken = false;  // by another output of this instruction
      for (const PlanIndex other : instruction.writes)
        is_taken = is_taken || (other != kNone && other != written && buffer_of_slice_[other] == buffer_of_slice_[s]);
      if (!is_taken) return buffer_of_slice_[s];
    }
    return -1;
  }

  // The order of the queues when every buffer has bytes of its own.
  void find_order() {
    std::vector<int64_t> used(plan_.devices.size(), 0);
    for (size_t b = 0; b < buffers_.size(); ++b) {
      int64_t& end = used[device_of_buffer_[b].index()];
      buffers_[b].offset = end;
      end += buffers_[b].bytes;
    }
    for (PlanIndex s = 0; s < plan_.slices.size(); ++s) set_offset(s);
    order_ = order_queues(plan_);
  }

  void set_offset(PlanIndex slice) {
    if (buffer_of_slice_[slice] >= 0)
      plan_.slices[slice].offset = buffers_[static_cast<size_t>(buffer_of_slice_[slice])].offset;
  }

  // Keeps apart what queues would wait for each other over, where that takes next to nothing and fits.
  int64_t pack_apart(DeviceId device, int64_t persistent_bytes, std::vector<Block>& blocks) const {
    const int64_t bound = largest_live(blocks).bytes;
    const int64_t room = plan_.devices[device.index()].capacity_bytes - persistent_bytes;
    if (bound > room) {
      const int64_t wasted_share = effort_ == PackEffort::quick ? kWastedShareInVain : kWastedShare;
      return pack(blocks, bound + bound / wasted_share, effort_);
    }
    if (order_) {
      const int64_t most = bound + (persistent_bytes + bound) / kApartShare;
      std::vector<Block> apart = blocks;
      stretch_lives(plan_, *order_, device, most, apart);
      const int64_t enough = most + most / kApartShare;
      const int64_t bytes = largest_live(apart).bytes > room ? room + 1 : pack(apart, enough, effort_);
      if (bytes <= std::min(enough, room)) {
        for (size_t b = 0; b < blocks.size(); ++b) blocks[b].offset = apart[b].offset;
        return bytes;
      }
    }
    return pack(blocks, bound + bound / kWastedShare, effort_);
  }

  // Packs one device. @return its largest sum of live bytes.
  int64_t place_device(DeviceId device) {
    std::vector<size_t> shared;  // buffers
    std::vector<Block> blocks;   // of them
    int64_t persistent_bytes = 0;
    for (size_t b = 0; b < buffers_.size(); ++b) {
      if (device_of_buffer_[b] != device) continue;
      if (buffers_[b].begin == kAlways) {
        buffers_[b].offset = persistent_bytes;
        persistent_bytes += buffers_[b].bytes;
      } else {
        shared.push_back(b);
        blocks.push_back(buffers_[b]);
      }
    }
    plan_.devices[device.index()].arena_bytes = persistent_bytes + pack_apart(device, persistent_bytes, blocks);
    for (size_t i = 0; i < shared.size(); ++i) buffers_[shared[i]].offset = persistent_bytes + blocks[i].offset;
    for (PlanIndex s = 0; s < plan_.slices.size(); ++s) {
      if (plan_.slices[s].device == device) set_offset(s);
    }
    const LargestLive live = largest_live(blocks);
    account(device, live.moment);
    return persistent_bytes + live.bytes;
  }

  // Fills in the device's memory by use, at the moment when the most temporary bytes are live.
  void account(DeviceId device, int64_t moment) {
    MemoryUse& memory = plan_.devices[device.index()].memory;
    std::vector<bool> is_counted(buffers_.size(), false);
    for (PlanIndex s = 0; s < plan_.slices.size(); ++s) {
      const PlanSlice& slice = plan_.slices[s];
      if (slice.device != device || buffer_of_slice_[s] < 0) continue;
      if (is_persistent(s)) {
        persistent_use(memory, slice) += slice.bytes;
        continue;
      }
      const auto b = static_cast<size_t>(buffer_of_slice_[s]);
      const bool is_live = first_[s] <= moment && moment <= last_[s];
      if (!is_live || is_counted[b] || buffers_[b].begin == kAlways) continue;
      is_counted[b] = true;
      const bool is_received = plan_.instructions[static_cast<size_t>(first_[s])].action == Action::recv;
      (slice.value == kNone ? memory.workspace_bytes
       : is_received        ? memory.staging_bytes
                            : memory.activation_bytes) += slice.bytes;
    }
  }

  int64_t& persistent_use(MemoryUse& memory, const PlanSlice& slice) {
    const PlanValue& value = plan_.values[slice.value];
    if (value.is_gradient) return memory.gradient_bytes;
    if (value.kind == PlanValueKind::input || value.kind == PlanValueKind::constant) return memory.activation_bytes;
    return value.kind == PlanValueKind::state ? memory.optimizer_bytes : memory.parameter_bytes;
  }

  Plan& plan_;
  const PackEffort effort_;
  std::vector<PlanIndex> origins_;  // of the values' bytes
  std::vector<int> buffer_of_slice_;
  std::vector<int64_t> first_;
  std::vector<int64_t> last_;
  std::vector<PlanIndex> in_place_of_;
  std::optional<QueueOrder> order_;  // with bytes of its own for every buffer; none on one device
  std::vector<Block> buffers_;
  std::vector<DeviceId> device_of_buffer_;
};

}  // namespace

std::vector<int64_t> plan_memory(Plan& plan, PackEffort effort) {
  return MemoryPlanner(plan, effort).run();
}

}  // namespace mpc
