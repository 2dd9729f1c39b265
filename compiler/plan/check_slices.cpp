#include <algorithm>
#include <map>
#include <ranges>
#include <set>
#include <tuple>

#include <fmt/format.h>

#include "compiler/base/checked.h"
#include "compiler/plan/check_parts.h"
#include "compiler/plan/slices.h"
#include "compiler/plan/views.h"

namespace mpc::plan_check {
namespace {

std::string slice_text(const Plan& plan, size_t index) {
  const PlanSlice& slice = plan.slices[index];
  const std::string what =
      slice.value < plan.values.size() ? "of " + value_text(plan, slice.value) : std::string("of workspace");
  return fmt::format("slice {} ({}{})", index, what, microbatch_text(slice.microbatch));
}

// The instances of a value: see Plan::instance_of.
bool is_instance(const Plan& plan, const PlanSlice& slice) {
  if (slice.microbatch < kPerStep || slice.microbatch >= plan.microbatches) return false;
  if (slice.value == kNone) return true;
  const PlanValue& value = plan.values[slice.value];
  if (value.literals.size() > 1) return slice.microbatch == 0 || slice.microbatch == plan.microbatches - 1;
  return (slice.microbatch == kPerStep) == value.per_step;
}

void check_slice(const Plan& plan, size_t index) {
  const PlanSlice& slice = plan.slices[index];
  if (slice.value != kNone && slice.value >= plan.values.size()) {
    refuse(fmt::format("slice {}", index),
           fmt::format("is of value {}, the plan has {}", slice.value, plan.values.size()));
  }
  const auto refuse_slice = [&](const std::string& what) { refuse(slice_text(plan, index), what); };
  if (slice.device.index() >= plan.devices.size()) {
    refuse_slice(fmt::format("is on device {}, the plan has {}", slice.device.index(), plan.devices.size()));
  }
  if (!is_instance(plan, slice)) refuse_slice(fmt::format("micro-batch {} is no instance of it", slice.microbatch));
  if (slice.offset < 0 || slice.offset % kSliceAlignment != 0) {
    refuse_slice(fmt::format("offset is {}, must be a multiple of {}", slice.offset, kSliceAlignment));
  }
  const auto end = slice.bytes < 0 ? std::nullopt : checked_add(slice.offset, slice.bytes);
  const int64_t arena_bytes = plan.devices[slice.device.index()].arena_bytes;
  if (!end || *end > arena_bytes) {
    refuse_slice(
        fmt::format("{} bytes at offset {} do not fit the arena of {} bytes", slice.bytes, slice.offset, arena_bytes));
  }
  if (slice.value == kNone) return;
  const int64_t expected = plan.value_bytes(slice.value, plan.variant_of(slice.microbatch));
  if (slice.bytes != expected) refuse_slice(fmt::format("has {} bytes, the value has {}", slice.bytes, expected));
}

void check_unique(const Plan& plan) {
  std::vector<std::tuple<PlanIndex, int32_t, uint32_t>> instances;
  for (const PlanSlice& slice : plan.slices) {
    if (slice.value != kNone) instances.emplace_back(slice.value, slice.microbatch, slice.device.index());
  }
  std::ranges::sort(instances);
  const auto twice = std::ranges::adjacent_find(instances);
  if (twice == instances.end()) return;
  const auto& [value, microbatch, device] = *twice;
  refuse(value_text(plan, value) + microbatch_text(microbatch),
         fmt::format("has two slices on {}", device_text(plan, DeviceId(device))));
}

struct Range {
  uint32_t device = 0;
  int64_t offset = 0;
  int64_t end = 0;
  // Values that replace each other in place count as one; what is never shared has an owner.
  PlanIndex owner = kNone;
  size_t slice = 0;
};

// Where GradAccumulate only stores (in the first micro-batch it reads no sum), the gradient may be made in the bytes of
// its sum, and so may what the gradient is a view of: per such slice, the chain of values it may lie in.
// check_accesses() proves that the order allows it.
std::map<PlanIndex, PlanIndex> stored_gradients(const Plan& plan, const Facts& facts) {
  std::map<PlanIndex, PlanIndex> owners;
  for (const Instruction& instruction :
       plan.instructions | std::views::reverse) {  // views come before what stores them
    if (instruction.action != Action::run || instruction.index >= plan.nodes.size()) continue;
    if (instruction.reads.empty() || instruction.writes.size() != 1) continue;
    const PlanIndex from = instruction.reads[0];
    const PlanIndex to = instruction.writes[0];
    if (from >= plan.slices.size() || to >= plan.slices.size() || plan.slices[to].value == kNone) continue;
    const OpKind op = plan.nodes[instruction.index].op;
    const bool is_store =
        op == OpKind::GradAccumulate && instruction.reads.size() == 2 && instruction.reads[1] == kNone;
    if (is_store) owners.emplace(from, facts.first_of[plan.slices[to].value]);
    if (!hands_on_bytes(op)) continue;
    if (const auto view = owners.find(to); view != owners.end()) owners.emplace(from, view->second);
  }
  return owners;
}

// Sorts the ranges by offset; a protected one may overlap only a range of its own chain or a gradient that is stored in
// it, and that must be the same range.
void check_protected(const Plan& plan, const Facts& facts) {
  std::vector<char> is_owner(plan.values.size(), 0);
  for (PlanIndex v = 0; v < plan.values.size(); ++v) is_owner[facts.first_of[v]] |= is_kept(plan.values[v]) ? 1 : 0;
  const std::map<PlanIndex, PlanIndex> stored = stored_gradients(plan, facts);
  const auto is_stored_in = [&](const Range& gradient, const Range& sum) {
    const auto found = stored.find(static_cast<PlanIndex>(gradient.slice));
    return found != stored.end() && sum.owner == found->second && gradient.offset == sum.offset &&
           gradient.end == sum.end;
  };
  std::vector<Range> ranges;
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const PlanSlice& slice = plan.slices[i];
    if (slice.bytes == 0) continue;
    const PlanIndex first = slice.value == kNone ? kNone : facts.first_of[slice.value];
    const bool has_owner = first != kNone && is_owner[first] != 0;
    ranges.push_back({slice.device.index(), slice.offset, slice.offset + slice.bytes, has_owner ? first : kNone, i});
  }
  std::ranges::sort(ranges, {}, [](const Range& r) { return std::tuple(r.device, r.offset, r.end, r.slice); });
  const Range* widest = nullptr;            // the range of this device that ends last
  const Range* widest_protected = nullptr;  // the same among protected ones
  for (const Range& range : ranges) {
    if (widest != nullptr && widest->device != range.device) widest = widest_protected = nullptr;
    const Range* other = range.owner != kNone ? widest : widest_protected;
    if (other != nullptr && other->end > range.offset) {
      const bool is_same_chain = other->owner == range.owner && other->offset == range.offset &&
                                 other->end == range.end &&
                                 plan.slices[other->slice].microbatch == plan.slices[range.slice].microbatch;
      if (!is_same_chain && !is_stored_in(range, *other) && !is_stored_in(*other, range)) {
        refuse(slice_text(plan, range.slice),
               fmt::format("overlaps {} on {}, and one of them must never be shared", slice_text(plan, other->slice),
                           device_text(plan, DeviceId(range.device))));
      }
    }
    if (widest == nullptr || range.end > widest->end) widest = &range;
    if (range.owner != kNone && (widest_protected == nullptr || range.end > widest_protected->end))
      widest_protected = &range;
  }
}

void check_queues(const Plan& plan) {
  std::set<std::tuple<QueueKind, DeviceId, DeviceId>> seen;
  for (size_t i = 0; i < plan.queues.size(); ++i) {
    const PlanQueue& queue = plan.queues[i];
    const std::string where = fmt::format("queue {} ({})", i, queue_kind_name(queue.kind));
    if (queue.device.index() >= plan.devices.size()) {
      refuse(where, fmt::format("is of device {}, the plan has {}", queue.device.index(), plan.devices.size()));
    }
    const bool is_compute = queue.kind == QueueKind::compute;
    const bool has_peer = queue.peer.index() < plan.devices.size() && queue.peer != queue.device;
    if (is_compute ? queue.peer.is_valid() : !has_peer) {
      refuse(where, is_compute ? "a compute queue has no peer" : "its peer must be another device of the plan");
    }
    if (!seen.emplace(queue.kind, queue.device, queue.peer).second) refuse(where, "stands twice");
  }
}

}  // namespace

void check_slices(const Plan& plan, const Facts& facts) {
  for (size_t i = 0; i < plan.slices.size(); ++i) check_slice(plan, i);
  check_unique(plan);
  check_protected(plan, facts);
  check_queues(plan);
}

}  // namespace mpc::plan_check
