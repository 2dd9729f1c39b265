#include <algorithm>
#include <set>
#include <unordered_set>

#include <fmt/format.h>

#include "compiler/base/checked.h"
#include "compiler/base/error.h"
#include "compiler/plan/check_parts.h"

namespace mpc::plan_check {
namespace {

// A queue's clock has an entry per queue and a snapshot of it is kept per event. The first bound keeps the clocks
// themselves small, the second their snapshots (1 GiB of 4-byte ticks).
constexpr size_t kMostQueues = 4096;
constexpr uint64_t kMostEventTicks = uint64_t{1} << 28;

void check_limits(const Plan& plan) {
  const auto limit = [](const std::string& what) { throw Error(ErrorId::M051, "plan", what); };
  if (plan.queues.size() > kMostQueues) {
    limit(fmt::format("has {} queues, the limit is {}", plan.queues.size(), kMostQueues));
  }
  if (uint64_t{plan.event_count} * plan.queues.size() > kMostEventTicks) {
    limit(fmt::format("has {} events between {} queues, the limit of their product is {}", plan.event_count,
                      plan.queues.size(), kMostEventTicks));
  }
  if (plan.event_count > plan.instructions.size()) {
    refuse("plan",
           fmt::format("has {} events, more than its {} instructions", plan.event_count, plan.instructions.size()));
  }
  // Indices are 32-bit and the largest means "none".
  const size_t longest = std::max({plan.instructions.size(), plan.slices.size(), plan.values.size(), plan.nodes.size(),
                                   plan.transfers.size(), plan.inputs.size(), plan.outputs.size()});
  if (longest >= kNone) limit(fmt::format("has a table of {} rows, the limit is {}", longest, kNone - 1));
}

void check_rows(const Plan& plan) {
  if (plan.microbatches < 1) refuse("plan", fmt::format("microbatches is {}, must be at least 1", plan.microbatches));
  if (plan.has_tail && plan.microbatches < 2) refuse("plan", "has_tail needs at least 2 micro-batches");
  if (plan.batch < 0 || plan.microbatch_rows < 0) {
    refuse("plan", fmt::format("batch is {} and microbatch_rows {}, neither may be negative", plan.batch,
                               plan.microbatch_rows));
  }
  if (plan.batch == 0) {
    if (plan.microbatch_rows != 0 || plan.has_tail)
      refuse("plan", "without a batch there are no micro-batch rows and no tail");
    return;
  }
  const auto rows_before_last = checked_mul(plan.microbatch_rows, plan.microbatches - 1);
  const auto tail = rows_before_last ? checked_sub(plan.batch, *rows_before_last) : std::nullopt;
  const bool fits = tail && (plan.has_tail ? *tail > 0 && *tail < plan.microbatch_rows : *tail == plan.microbatch_rows);
  if (!fits) {
    refuse("plan", fmt::format("a batch of {} rows is not {} micro-batches of {} rows {} tail", plan.batch,
                               plan.microbatches, plan.microbatch_rows, plan.has_tail ? "with a" : "without"));
  }
}

void check_costs(const Plan& plan) {
  const auto check = [](std::string_view name, double value) {
    if (!is_cost(value)) refuse("plan", fmt::format("{} is {}, must be finite and not negative", name, value));
  };
  check("step_seconds", plan.step_seconds);
  check("objective_value", plan.objective_value);
  check("objective_lower_bound", plan.objective_lower_bound);
  check("one_device_seconds", plan.one_device_seconds);
  if (!(plan.bubble >= 0 && plan.bubble <= 1))
    refuse("plan", fmt::format("bubble is {}, must be in [0, 1]", plan.bubble));
}

void check_model(const Plan& plan) {
  const std::string& hash = plan.model.sha256;
  const bool is_hash = hash.size() == 64 && std::ranges::all_of(hash, [](char c) {
                         return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                       });
  if (!hash.empty() && !is_hash) refuse("plan", "model.sha256 is not 64 hexadecimal digits");
  if (plan.model.path.find('\0') != std::string::npos) refuse("plan", "model.path has a NUL");
  std::unordered_set<std::string> names;
  for (const auto& [name, dims] : plan.model.input_shapes) {
    if (!names.insert(name).second) refuse("plan", fmt::format("model input '{}' stands twice", name));
    if (!checked_shape(dims, DType::u8))
      refuse("plan", fmt::format("the shape of model input '{}' is out of range", name));
  }
}

void check_device(const PlanDevice& device) {
  const std::string where = fmt::format("device '{}'", device.name);
  if (device.backend.empty()) refuse(where, "has no backend");
  if (device.threads < 1) refuse(where, fmt::format("threads is {}, must be at least 1", device.threads));
  if (device.capacity_bytes < 0 || device.arena_bytes < 0) {
    refuse(where, fmt::format("capacity_bytes is {} and arena_bytes {}, neither may be negative", device.capacity_bytes,
                              device.arena_bytes));
  }
  if (device.arena_bytes > device.capacity_bytes) {
    refuse(where,
           fmt::format("the arena has {} bytes, more than the device's {}", device.arena_bytes, device.capacity_bytes));
  }
  const MemoryUse& m = device.memory;
  int64_t sum = 0;
  for (const int64_t bytes : {m.parameter_bytes, m.gradient_bytes, m.optimizer_bytes, m.activation_bytes,
                              m.workspace_bytes, m.staging_bytes}) {
    const auto next = bytes < 0 ? std::nullopt : checked_add(sum, bytes);
    if (!next || *next > device.arena_bytes) {
      refuse(where, fmt::format("its memory by use has a negative row or adds up to more than the arena's {} bytes",
                                device.arena_bytes));
    }
    sum = *next;
  }
  if (!is_cost(device.flops) || !is_cost(device.seconds)) {
    refuse(where, fmt::format("flops is {} and seconds {}, both must be finite and not negative", device.flops,
                              device.seconds));
  }
}

void check_devices(const Plan& plan) {
  if (plan.devices.empty()) refuse("plan", "has no devices");
  std::unordered_set<std::string_view> names;
  for (const PlanDevice& device : plan.devices) {
    if (device.name.empty()) refuse("plan", "a device has no name");
    if (!names.insert(device.name).second) refuse("plan", fmt::format("two devices are named '{}'", device.name));
    check_device(device);
  }
}

void check_links(const Plan& plan) {
  std::set<std::pair<DeviceId, DeviceId>> pairs;
  for (size_t i = 0; i < plan.links.size(); ++i) {
    const PlanLink& link = plan.links[i];
    const std::string where = fmt::format("link {}", i);
    if (link.from.index() >= plan.devices.size() || link.to.index() >= plan.devices.size()) {
      refuse(where, fmt::format("names a device outside [0, {})", plan.devices.size()));
    }
    if (link.from == link.to) refuse(where, "leads from a device to itself");
    if (!pairs.emplace(link.from, link.to).second) refuse(where, "stands twice");
    if (!is_cost(link.bytes_per_second) || link.bytes_per_second == 0 || !is_cost(link.latency_s)) {
      refuse(where, fmt::format("bytes_per_second is {}, must be above 0; latency_s is {}, must not be negative",
                                link.bytes_per_second, link.latency_s));
    }
  }
}

}  // namespace

void check_head(const Plan& plan) {
  if (plan.version != kPlanVersion) {
    throw Error(ErrorId::M062, "plan",
                fmt::format("has version {}, this mpc reads version {}", plan.version, kPlanVersion),
                "make the plan again with mpc partition");
  }
  check_limits(plan);
  check_rows(plan);
  check_costs(plan);
  check_model(plan);
  check_devices(plan);
  check_links(plan);
}

}  // namespace mpc::plan_check
