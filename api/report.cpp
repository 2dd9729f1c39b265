#include "api/report.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/facts.h"
#include "api/table.h"
#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "compiler/plan/host_memory.h"

namespace mpc::api {
namespace {

using OrderedJson = nlohmann::ordered_json;

// More transfers than these are summed up in one line: a table is for people, the JSON has all of them.
constexpr size_t kMostTransferRows = 24;
constexpr size_t kMostNameBytes = 60;

std::string percent(double share) {
  return fmt::format("{:.1f} %", 100 * share);
}

std::string heading(const Plan& plan) {
  std::string text = fmt::format("{} on {} device{}", escaped(plan.model.path.empty() ? "model" : plan.model.path, 200),
                                 computing_device_count(plan), computing_device_count(plan) == 1 ? "" : "s");
  text += plan.is_training ? ", training" : ", inference";
  if (plan.batch > 0) text += fmt::format(", batch {}", plan.batch);
  if (plan.microbatches > 1) {
    text += fmt::format(" in {} micro-batches of {}", plan.microbatches, plan.microbatch_rows);
    if (plan.has_tail) text += fmt::format(" (the last of {})", plan.rows_of(plan.microbatches - 1));
  }
  return text + fmt::format(", schedule {}, objective {}\n\n", plan.schedule, plan.objective);
}

// How much more the arena is than what it must hold at once; 1 for an empty one.
double peak_over_live(const v1::DevicePlan& row) {
  return row.live_bytes > 0 ? static_cast<double>(row.peak_bytes) / static_cast<double>(row.live_bytes) : 1;
}

std::string device_table(const Plan& plan) {
  const std::vector<v1::DevicePlan> rows = device_plans(plan);
  double all_flops = 0;
  for (const v1::DevicePlan& row : rows) all_flops += row.flops;
  Table table({"device", "stage", "nodes", "parameters", "peak", "of", "live", "peak/live", "weights", "gradients",
               "optimizer", "activations", "workspace", "staging", "FLOPs", "share", "time"});
  for (const v1::DevicePlan& row : rows) {
    const bool is_host = row.backend == kHostMemoryBackend;
    table.add({row.name, is_host ? "-" : std::to_string(row.stage), count_text(row.nodes), count_text(row.parameters),
               bytes_text(row.peak_bytes), bytes_text(row.capacity_bytes), bytes_text(row.live_bytes),
               fmt::format("{:.3f}", peak_over_live(row)), bytes_text(row.parameter_bytes),
               bytes_text(row.gradient_bytes), bytes_text(row.optimizer_bytes), bytes_text(row.activation_bytes),
               bytes_text(row.workspace_bytes), bytes_text(row.staging_bytes), flops_text(row.flops),
               percent(all_flops > 0 ? row.flops / all_flops : 0), seconds_text(row.seconds)});
  }
  return table.text();
}

std::string transfer_table(const Plan& plan) {
  std::vector<v1::TransferPlan> rows = transfer_plans(plan);
  if (rows.empty()) return "transfers: none\n";
  int64_t bytes = 0;
  for (const v1::TransferPlan& row : rows) bytes += row.bytes;
  std::string text = fmt::format("transfers: {}, {} per step\n", rows.size(), bytes_text(bytes));
  const size_t shown = std::min(rows.size(), kMostTransferRows);
  // The largest are the ones to look at; equal ones stay in the plan's order.
  std::ranges::stable_sort(rows, [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  Table table({"tensor", "from", "to", "bytes", "", "phase", "time"}, {1, 2, 5});
  for (size_t i = 0; i < shown; ++i) {
    const v1::TransferPlan& row = rows[i];
    table.add({escaped(row.value, kMostNameBytes), plan.devices[static_cast<size_t>(row.from)].name,
               plan.devices[static_cast<size_t>(row.to)].name, count_text(row.bytes), bytes_text(row.bytes), row.phase,
               seconds_text(row.seconds)});
  }
  text += table.text(2);
  if (shown < rows.size()) text += fmt::format("  ... and {} smaller ones (--json lists all)\n", rows.size() - shown);
  return text;
}

/// Inputs and outputs move between the host and a device; they are listed apart from the transfers.
std::string host_traffic(const Plan& plan) {
  Table table({"tensor", "from", "to", "bytes", ""}, {1, 2});
  const auto devices_of = [&](PlanIndex value) {
    std::vector<uint32_t> devices;
    for (const PlanSlice& slice : plan.slices) {
      if (slice.value == value && std::ranges::find(devices, slice.device.index()) == devices.end()) {
        devices.push_back(slice.device.index());
      }
    }
    return devices;
  };
  const auto whole_bytes = [&](PlanIndex value, bool is_batched) {
    int64_t bytes = plan.value_bytes(value, 0);
    if (is_batched) {
      bytes = 0;
      for (int32_t m = 0; m < plan.microbatches; ++m) bytes += plan.value_bytes(value, plan.variant_of(m));
    }
    return bytes;
  };
  for (const PlanInput& input : plan.inputs) {
    if (!input.is_supplied_by_caller()) continue;
    for (const uint32_t device : devices_of(input.value)) {
      const int64_t bytes = whole_bytes(input.value, input.is_batched);
      table.add({escaped(input.name, kMostNameBytes), "host", plan.devices[device].name, count_text(bytes),
                 bytes_text(bytes)});
    }
  }
  for (const PlanOutput& output : plan.outputs) {
    const std::vector<uint32_t> devices = devices_of(output.value);
    const int64_t bytes = whole_bytes(output.value, output.combine == PlanOutput::Combine::concatenate);
    table.add({escaped(output.name, kMostNameBytes), devices.empty() ? "host" : plan.devices[devices.front()].name,
               "host", count_text(bytes), bytes_text(bytes)});
  }
  return table.empty() ? "" : "host traffic per step:\n" + table.text(2);
}

std::string summary(const Plan& plan) {
  double largest = 0;
  double all = 0;
  size_t slowest = 0;
  int busy_devices = 0;
  for (size_t d = 0; d < plan.devices.size(); ++d) {
    const double seconds = plan.devices[d].seconds;
    all += seconds;
    busy_devices += seconds > 0 ? 1 : 0;
    if (seconds > largest) {
      largest = seconds;
      slowest = d;
    }
  }
  std::string text;
  const auto line = [&](std::string_view name, const std::string& value) {
    text += fmt::format("{:<22}{}\n", name, value);
  };
  if (busy_devices > 0 && largest > 0) {
    line("balance",
         fmt::format("{} (mean load over largest; {} is the bottleneck)",
                     percent(all / (largest * static_cast<double>(busy_devices))), plan.devices[slowest].name));
  }
  line("predicted step time",
       seconds_text(plan.step_seconds) +
           (plan.batch > 0 && plan.step_seconds > 0
                ? fmt::format(" ({:.4g} rows/s)", static_cast<double>(plan.batch) / plan.step_seconds)
                : std::string()));
  line("bubble", percent(plan.bubble));
  if (plan.step_seconds > 0 && plan.one_device_seconds > 0) {
    line("speed-up", fmt::format("{:.2f}x over one device ({}, memory ignored)",
                                 plan.one_device_seconds / plan.step_seconds, seconds_text(plan.one_device_seconds)));
  }
  if (plan.objective_lower_bound > 0) {
    // Of memory: the largest share of its capacity that a device holds. Of the others: seconds.
    const auto value = plan.objective == "memory" ? percent : seconds_text;
    line("objective", fmt::format("{}: {}, lower bound {}, gap {}", plan.objective, value(plan.objective_value),
                                  value(plan.objective_lower_bound),
                                  percent(plan.objective_value / plan.objective_lower_bound - 1)));
  }
  for (const std::string& note : plan.notes) text += "note: " + escaped(note) + "\n";
  for (const std::string& warning : plan.warnings) text += "warning: " + escaped(warning) + "\n";
  return text;
}

}  // namespace

std::string report_text(const Plan& plan) {
  std::string text = heading(plan) + device_table(plan) + "\n" + transfer_table(plan);
  const std::string host = host_traffic(plan);
  if (!host.empty()) text += "\n" + host;
  return text + "\n" + summary(plan);
}

OrderedJson devices_json(const Plan& plan) {
  OrderedJson rows = OrderedJson::array();
  for (const v1::DevicePlan& row : device_plans(plan)) {
    rows.push_back({{"id", row.id},
                    {"name", row.name},
                    {"hardware", row.hardware},
                    {"stage", row.stage},
                    {"nodes", row.nodes},
                    {"parameters", row.parameters},
                    {"parameter_bytes", row.parameter_bytes},
                    {"gradient_bytes", row.gradient_bytes},
                    {"optimizer_bytes", row.optimizer_bytes},
                    {"activation_bytes", row.activation_bytes},
                    {"workspace_bytes", row.workspace_bytes},
                    {"staging_bytes", row.staging_bytes},
                    {"peak_bytes", row.peak_bytes},
                    {"live_bytes", row.live_bytes},
                    {"peak_over_live", peak_over_live(row)},
                    {"capacity_bytes", row.capacity_bytes},
                    {"flops", row.flops},
                    {"seconds", row.seconds}});
  }
  return rows;
}

std::string report_json(const Plan& plan) {
  OrderedJson json;
  json["version"] = 1;
  json["feasible"] = true;
  json["model"] = plan.model.path;
  json["training"] = plan.is_training;
  json["batch"] = plan.batch;
  json["microbatches"] = plan.microbatches;
  json["schedule"] = plan.schedule;
  json["devices"] = devices_json(plan);
  OrderedJson& transfers = json["transfers"] = OrderedJson::array();
  for (const v1::TransferPlan& row : transfer_plans(plan)) {
    transfers.push_back({{"value", row.value},
                         {"from", row.from},
                         {"to", row.to},
                         {"bytes", row.bytes},
                         {"phase", row.phase},
                         {"seconds", row.seconds}});
  }
  OrderedJson& assignment = json["assignment"] = OrderedJson::object();
  for (const auto& [node, device] : assignment_of(plan)) assignment[node] = device;
  json["objective"] = {
      {"name", plan.objective}, {"value", plan.objective_value}, {"lower_bound", plan.objective_lower_bound}};
  json["step_seconds"] = plan.step_seconds;
  json["one_device_seconds"] = plan.one_device_seconds;
  json["bubble"] = plan.bubble;
  json["notes"] = plan.notes;
  json["warnings"] = plan.warnings;
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string report_text(const v1::NoPlan& reasons) {
  std::string text = "no plan fits\n\n";
  Table table({"device", "needs", "may use", "lacks", "largest"}, {4});
  for (const v1::DeviceNeed& need : reasons.needs) {
    std::string largest;
    for (const std::string& item : need.largest) largest += (largest.empty() ? "" : ", ") + escaped(item, 80);
    table.add({need.name, bytes_text(need.bytes), bytes_text(need.capacity_bytes),
               bytes_text(std::max<int64_t>(0, need.bytes - need.capacity_bytes)), largest});
  }
  text += table.text(2);
  for (const std::string& suggestion : reasons.suggestions) text += "try: " + escaped(suggestion) + "\n";
  return text;
}

std::string report_json(const v1::NoPlan& reasons) {
  OrderedJson json;
  json["version"] = 1;
  json["feasible"] = false;
  OrderedJson& needs = json["needs"] = OrderedJson::array();
  for (const v1::DeviceNeed& need : reasons.needs) {
    needs.push_back({{"device", need.device},
                     {"name", need.name},
                     {"bytes", need.bytes},
                     {"capacity_bytes", need.capacity_bytes},
                     {"largest", need.largest}});
  }
  json["suggestions"] = reasons.suggestions;
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace mpc::api
