#include <algorithm>
#include <map>
#include <optional>

#include <fmt/format.h>

#include "compiler/plan/check_parts.h"
#include "compiler/plan/views.h"

// Proves that every execution of the queues gives what the total order gives.
//
// The instructions are walked in the total order. Each queue has a vector clock: clock[q][p] is the number of
// instructions of queue p that surely have completed when queue q starts its next one. record keeps a copy of its
// queue's clock, wait joins it; a recv joins the clock of its send. (A send's completion says nothing about the
// receiver.)
//
// Each arena is a map from byte ranges to what they hold (the instance of a value), who wrote it, and who read it
// since.
//  - A read must find the instance that it expects in all its bytes, and the write must have happened before it.
//  - A write must come after the write and the reads of everything it overlaps.
//  - What hands on bytes (views.h) writes nothing when its output lies where its operand lies, and both count as the
//    same content, that of the value which the bytes were made as.
// So any two conflicting accesses are ordered as they are in the total order, and reads see what they should see.
//
// O(instructions * (queues + ranges overlapped * log ranges)).

namespace mpc::plan_check {
namespace {

// The bytes of an arena hold the instance of a value, or nothing (kNone).
struct Content {
  PlanIndex value = kNone;
  int32_t microbatch = kPerStep;
  bool operator==(const Content&) const = default;
};

struct Access {
  PlanIndex queue = kNone;  // kNone: before the step
  uint32_t tick = 0;
  PlanIndex instruction = kNone;
};

struct Held {
  int64_t end = 0;
  Content content;
  Access write;
  std::vector<Access> reads;  // the last one of each queue
};

using Arena = std::map<int64_t, Held>;  // by offset; ranges do not overlap

class Accesses {
 public:
  Accesses(const Plan& plan, const Facts& facts)
      : plan_(plan),
        facts_(facts),
        origins_(origins_of_bytes(plan)),
        clocks_(plan.queues.size(), Clock(plan.queues.size(), 0)),
        recorded_(plan.event_count),
        arenas_(plan.devices.size()) {}

  void check() {
    load_persistent();
    for (PlanIndex i = 0; i < plan_.instructions.size(); ++i) execute(i);
    check_end();
  }

 private:
  using Clock = std::vector<uint32_t>;

  // Parameters, states and constants are there before the step. The buffers of accumulated gradients are not: the first
  // micro-batch stores.
  void load_persistent() {
    for (const PlanSlice& slice : plan_.slices) {
      if (slice.value == kNone || slice.bytes == 0) continue;
      const PlanValueKind kind = plan_.values[slice.value].kind;
      if (kind == PlanValueKind::input || kind == PlanValueKind::temporary) continue;
      arenas_[slice.device.index()][slice.offset] = {
          slice.offset + slice.bytes, {slice.value, slice.microbatch}, {}, {}};
    }
  }

  void execute(PlanIndex i) {
    const Instruction& instruction = plan_.instructions[i];
    Clock& clock = clocks_[instruction.queue];
    if (instruction.action == Action::wait) join(clock, recorded_[instruction.index]);
    if (instruction.action == Action::recv) join(clock, clocks_[plan_.instructions[i - 1].queue]);
    ++clock[instruction.queue];
    const Access access = {instruction.queue, clock[instruction.queue], i};
    if (instruction.action == Action::record) recorded_[instruction.index] = clock;
    for (size_t k = 0; k < instruction.reads.size(); ++k) {
      if (instruction.reads[k] != kNone) read(access, instruction.reads[k], expected_content(instruction, k));
    }
    check_overlaps(i);
    if (is_view(plan_, origins_, instruction)) return;  // the bytes stay whose they are
    for (const PlanIndex slice : instruction.writes) {
      if (slice != kNone)
        write(access, slice, {origins_[plan_.slices[slice].value], written_instance(instruction, slice)});
    }
    if (instruction.workspace != kNone) write(access, instruction.workspace, {});
  }

  static void join(Clock& clock, const Clock& other) {
    for (size_t q = 0; q < clock.size(); ++q) clock[q] = std::max(clock[q], other[q]);
  }

  // A running sum is made anew for each micro-batch, in the one slice it has.
  int32_t written_instance(const Instruction& instruction, PlanIndex slice) const {
    const PlanIndex value = plan_.slices[slice].value;
    return facts_.is_running[value] ? instruction.microbatch : plan_.slices[slice].microbatch;
  }

  Content complete(PlanIndex value, int32_t microbatch) const {
    return {origins_[value], facts_.is_running[value] ? plan_.microbatches - 1 : plan_.instance_of(value, microbatch)};
  }

  // What an instruction must find in its operand `k`; nothing when it does not matter.
  std::optional<Content> expected_content(const Instruction& instruction, size_t k) const {
    const PlanIndex value = plan_.slices[instruction.reads[k]].value;
    if (instruction.action != Action::run || instruction.microbatch == kPerStep || !is_updated_by(instruction, value)) {
      return complete(value, instruction.microbatch);
    }
    // The first update of a chain goes on with what the chain's last one left for the micro-batch before.
    if (facts_.is_running[value]) return Content{value, instruction.microbatch};
    if (instruction.microbatch > 0) return Content{facts_.last_running_of[value], instruction.microbatch - 1};
    if (plan_.nodes[instruction.index].op == OpKind::GradAccumulate) return std::nullopt;
    return complete(value, instruction.microbatch);
  }

  bool is_updated_by(const Instruction& instruction, PlanIndex value) const {
    const PlanIndex next = facts_.replaced_by[value];
    return next != kNone && std::ranges::find(plan_.nodes[instruction.index].outputs, next) !=
                                plan_.nodes[instruction.index].outputs.end();
  }

  bool happened_before(const Access& earlier, const Access& later) const {
    return earlier.queue == kNone || clocks_[later.queue][earlier.queue] >= earlier.tick;
  }

  void read(const Access& access, PlanIndex index, const std::optional<Content>& expected) {
    const PlanSlice& slice = plan_.slices[index];
    Arena& arena = arenas_[slice.device.index()];
    const int64_t end = slice.offset + slice.bytes;
    if (slice.bytes == 0) return;
    if (!expected) return;  // it is overwritten at once: write() checks the order
    int64_t at = slice.offset;
    for (auto it = first_overlap(arena, slice.offset); at < end; ++it) {
      const bool is_held = it != arena.end() && it->first <= at;
      if (!is_held || it->second.content != *expected) {
        refuse(instruction_text(plan_, access.instruction),
               fmt::format("reads {}, but byte {} of {} holds {}", content_text(*expected), at,
                           device_text(plan_, slice.device), is_held ? content_text(it->second.content) : "nothing"));
      }
      Held& held = it->second;
      if (!happened_before(held.write, access)) {
        refuse(instruction_text(plan_, access.instruction),
               fmt::format("reads {} and nothing makes it wait for {}", content_text(*expected),
                           instruction_text(plan_, held.write.instruction)));
      }
      const auto same_queue = std::ranges::find(held.reads, access.queue, &Access::queue);
      if (same_queue != held.reads.end()) {
        *same_queue = access;
      } else {
        held.reads.push_back(access);
      }
      at = held.end;
    }
  }

  void write(const Access& access, PlanIndex index, const Content& content) {
    const PlanSlice& slice = plan_.slices[index];
    if (slice.bytes == 0) return;
    Arena& arena = arenas_[slice.device.index()];
    const int64_t end = slice.offset + slice.bytes;
    auto it = first_overlap(arena, slice.offset);
    while (it != arena.end() && it->first < end) {
      check_overwrite(access, it->second, content);
      // What sticks out of the written range stays as it was.
      Held held = std::move(it->second);
      const int64_t offset = it->first;
      it = arena.erase(it);
      if (held.end > end) {
        Held right = held;
        it = arena.emplace_hint(it, end, std::move(right));
      }
      if (offset < slice.offset) {
        held.end = slice.offset;
        arena.emplace(offset, std::move(held));
      }
    }
    arena[slice.offset] = {end, content, access, {}};
  }

  void check_overwrite(const Access& access, const Held& held, const Content& content) const {
    const Access* unordered = happened_before(held.write, access) ? nullptr : &held.write;
    for (const Access& read : held.reads) {
      if (!happened_before(read, access)) unordered = &read;
    }
    if (unordered == nullptr) return;
    refuse(instruction_text(plan_, access.instruction),
           fmt::format("writes {} over {} and nothing makes it wait for {}", content_text(content),
                       content_text(held.content), instruction_text(plan_, unordered->instruction)));
  }

  static Arena::iterator first_overlap(Arena& arena, int64_t offset) {
    auto it = arena.upper_bound(offset);
    if (it != arena.begin() && std::prev(it)->second.end > offset) --it;
    return it;
  }

  // Within one instruction: outputs and workspace are apart from each other, and from inputs unless the op allows it.
  void check_overlaps(PlanIndex i) const {
    const Instruction& instruction = plan_.instructions[i];
    std::vector<PlanIndex> written;
    for (const PlanIndex slice : instruction.writes) {
      if (slice != kNone && plan_.slices[slice].bytes > 0) written.push_back(slice);
    }
    if (instruction.workspace != kNone && plan_.slices[instruction.workspace].bytes > 0)
      written.push_back(instruction.workspace);
    const auto offset_of = [&](PlanIndex slice) { return plan_.slices[slice].offset; };
    std::ranges::sort(written, {}, offset_of);
    for (size_t k = 1; k < written.size(); ++k) {
      if (end_of(written[k - 1]) > offset_of(written[k]))
        refuse(instruction_text(plan_, i), "two of its outputs overlap");
    }
    for (size_t k = 0; k < instruction.reads.size(); ++k) {
      const PlanIndex operand = instruction.reads[k];
      if (operand == kNone || plan_.slices[operand].bytes == 0) continue;
      auto it = std::ranges::upper_bound(written, offset_of(operand), {}, offset_of);
      if (it != written.begin() && end_of(*std::prev(it)) > offset_of(operand)) --it;
      for (; it != written.end() && offset_of(*it) < end_of(operand); ++it) {
        if (!may_share(instruction, k, *it)) {
          refuse(instruction_text(plan_, i), fmt::format("writes over its operand {} ({}), which it may not", k,
                                                         value_text(plan_, plan_.slices[operand].value)));
        }
      }
    }
  }

  int64_t end_of(PlanIndex slice) const { return plan_.slices[slice].offset + plan_.slices[slice].bytes; }

  bool may_share(const Instruction& instruction, size_t operand, PlanIndex written) const {
    if (instruction.action != Action::run || written == instruction.workspace) return false;
    const PlanNode& node = plan_.nodes[instruction.index];
    const PlanSlice& from = plan_.slices[instruction.reads[operand]];
    const PlanSlice& to = plan_.slices[written];
    if (from.offset != to.offset || from.bytes != to.bytes) return false;
    const auto output = std::ranges::find(instruction.writes, written) - instruction.writes.begin();
    const auto aliased = aliased_input(node.op, static_cast<int>(output));
    const bool is_store = node.op == OpKind::GradAccumulate && instruction.reads[1] == kNone;
    if (is_store) return operand == 0 && instruction.reads.size() == 2;  // not a factor of a product
    if (aliased) return static_cast<size_t>(*aliased) == operand;
    return op_share(node.op) == Share::kElementwise && plan_.values[from.value].dtype == plan_.values[to.value].dtype;
  }

  // What holds from step to step holds the right content at the end: itself, or what has replaced it.
  void check_end() {
    for (const PlanSlice& slice : plan_.slices) {
      if (slice.value == kNone || slice.bytes == 0) continue;
      const PlanValue& value = plan_.values[slice.value];
      const bool is_persistent = value.kind == PlanValueKind::parameter || value.kind == PlanValueKind::state ||
                                 value.kind == PlanValueKind::constant || value.is_gradient;
      if (!is_persistent) continue;
      const PlanIndex last = facts_.last_of[slice.value];
      const Content expected =
          last == slice.value && !value.is_gradient ? Content{slice.value, slice.microbatch} : complete(last, kPerStep);
      Arena& arena = arenas_[slice.device.index()];
      const auto it = first_overlap(arena, slice.offset);
      if (it != arena.end() && it->first <= slice.offset && it->second.end >= slice.offset + slice.bytes &&
          it->second.content == expected) {
        continue;
      }
      refuse(value_text(plan_, slice.value), fmt::format("its bytes on {} do not hold {} at the end of the step",
                                                         device_text(plan_, slice.device), content_text(expected)));
    }
  }

  std::string content_text(const Content& content) const {
    if (content.value == kNone) return "a workspace";
    return value_text(plan_, content.value) + microbatch_text(content.microbatch);
  }

  const Plan& plan_;
  const Facts& facts_;
  const std::vector<PlanIndex> origins_;
  std::vector<Clock> clocks_;
  std::vector<Clock> recorded_;
  std::vector<Arena> arenas_;
};

}  // namespace

void check_accesses(const Plan& plan, const Facts& facts) {
  Accesses(plan, facts).check();
}

}  // namespace mpc::plan_check
