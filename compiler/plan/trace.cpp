#include <iterator>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "compiler/plan/simulate.h"
#include "compiler/plan/text_form.h"

// The Chrome trace event format ("JSON Object Format"), which Perfetto and chrome://tracing read: complete events ("X")
// on tracks named by metadata events ("M"), counters ("C"). Times are in microseconds.

namespace mpc {
namespace {

using plan_text::number_json;
using plan_text::quoted;

constexpr int kProcess = 1;
constexpr double kMicroseconds = 1e6;

// Reserved colour names of the trace viewer, one per phase, so that a pipeline's shape is seen at a glance.
std::string_view color_of(PlanPhase phase) {
  switch (phase) {
    case PlanPhase::forward:
      return "thread_state_running";
    case PlanPhase::input_grad:
      return "rail_response";
    case PlanPhase::weight_grad:
      return "rail_animation";
    case PlanPhase::update:
      return "thread_state_iowait";
  }
  return "generic_work";
}

class Trace {
 public:
  Trace(const Plan& plan, const char* title) : plan_(plan) {
    add(fmt::format(R"({{"name":"process_name","ph":"M","pid":{},"args":{{"name":{}}}}})", kProcess, quoted(title)));
    for (size_t d = 0; d < plan.devices.size(); ++d) name_track(d, plan.devices[d].name);
    std::set<std::pair<DeviceId, DeviceId>> links;
    for (const PlanTransfer& transfer : plan.transfers) links.emplace(transfer.from, transfer.to);
    for (const auto& link : links) {
      const size_t track = plan.devices.size() + link_tracks_.size();
      link_tracks_.emplace(link, track);
      name_track(track, fmt::format("{} -> {}", device_name(link.first), device_name(link.second)));
    }
  }

  void add_entries(const Timeline& timeline) {
    for (const TimelineEntry& entry : timeline.entries) {
      const Instruction& instruction = plan_.instructions[entry.instruction];
      if (instruction.action == Action::run) add_run(entry, instruction);
      // A send and its recv are one copy: the link's track shows it once.
      if (instruction.action == Action::recv) add_copy(entry, instruction);
    }
  }

  void add_memory(const std::vector<std::vector<MemoryPoint>>& memory) {
    for (size_t d = 0; d < memory.size(); ++d) {
      const std::string name = quoted("memory of " + plan_.devices[d].name);
      for (const MemoryPoint& point : memory[d]) {
        add(fmt::format(R"({{"name":{},"ph":"C","pid":{},"ts":{},"args":{{"bytes":{}}}}})", name, kProcess,
                        number_json(point.time_s * kMicroseconds), point.bytes));
      }
    }
  }

  std::string done() && { return "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n" + out_ + "\n]}\n"; }

 private:
  const std::string& device_name(DeviceId device) const { return plan_.devices[device.index()].name; }

  void add(std::string_view event) {
    if (!out_.empty()) out_ += ",\n";
    out_ += event;
  }

  void name_track(size_t track, std::string_view name) {
    add(fmt::format(R"({{"name":"thread_name","ph":"M","pid":{},"tid":{},"args":{{"name":{}}}}})", kProcess, track,
                    quoted(name)));
    // Viewers sort tracks by name otherwise, and cpu:10 would stand before cpu:2.
    add(fmt::format(R"({{"name":"thread_sort_index","ph":"M","pid":{},"tid":{},"args":{{"sort_index":{}}}}})", kProcess,
                    track, track));
  }

  void add_run(const TimelineEntry& entry, const Instruction& instruction) {
    const PlanNode& node = plan_.nodes[instruction.index];
    int64_t bytes = 0;
    for (const PlanIndex slice : instruction.writes) bytes += slice == kNone ? 0 : plan_.slices[slice].bytes;
    const std::string args =
        fmt::format(R"("op":"{}","origin":{},"bytes":{},)", op_name(node.op), quoted(node.origin), bytes);
    add_event(entry, instruction, node.name, node.phase, node.device.index(), color_of(node.phase), args);
  }

  void add_copy(const TimelineEntry& entry, const Instruction& instruction) {
    const PlanTransfer& transfer = plan_.transfers[instruction.index];
    const int64_t bytes = plan_.transfer_bytes(transfer, plan_.variant_of(instruction.microbatch));
    const size_t track = link_tracks_.at({transfer.from, transfer.to});
    add_event(entry, instruction, transfer.name, transfer.phase, track, "grey", fmt::format(R"("bytes":{},)", bytes));
  }

  void add_event(const TimelineEntry& entry, const Instruction& instruction, std::string_view name, PlanPhase phase,
                 size_t track, std::string_view color, std::string_view args) {
    const std::string microbatch =
        instruction.microbatch == kPerStep ? "null" : fmt::format("{}", instruction.microbatch);
    const std::string_view phase_text = plan_phase_name(phase);
    add(fmt::format(R"({{"name":{},"cat":"{}","ph":"X","pid":{},"tid":{},"ts":{},"dur":{},"cname":"{}",)"
                    R"("args":{{{}"phase":"{}","microbatch":{}}}}})",
                    quoted(name), phase_text, kProcess, track, number_json(entry.start_s * kMicroseconds),
                    number_json((entry.end_s - entry.start_s) * kMicroseconds), color, args, phase_text, microbatch));
  }

  const Plan& plan_;
  std::string out_;
  std::map<std::pair<DeviceId, DeviceId>, size_t> link_tracks_;
};

}  // namespace

std::string trace_json(const Plan& plan, const Timeline& timeline, const char* title) {
  Trace trace(plan, title);
  trace.add_entries(timeline);
  trace.add_memory(memory_over_time(plan, timeline));
  return std::move(trace).done();
}

}  // namespace mpc
