#include "tools/results.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/table.h"
#include "compiler/base/error.h"
#include "compiler/base/text.h"

namespace mpc::tools {
namespace {

bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::f16 || dtype == DType::bf16;
}

int64_t row_elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (size_t axis = 1; axis < shape.size(); ++axis) count *= shape[axis];
  return count;
}

/// How far the prediction is from the measurement, as a share of it; 0 when nothing was measured.
double relative_error(double predicted, double measured) {
  return measured > 0 ? predicted / measured - 1 : 0;
}

std::string error_text(double predicted, double measured) {
  return measured > 0 ? fmt::format("{:+.1f} %", 100 * relative_error(predicted, measured)) : "-";
}

std::string op_table(const std::vector<OpTime>& times) {
  if (times.empty()) return "";
  double all = 0;
  for (const OpTime& time : times) all += time.seconds;
  api::Table table({"op", "calls", "predicted", "measured", "share", "error"});
  for (const OpTime& time : times) {
    table.add({time.op, count_text(time.calls), seconds_text(time.predicted_seconds), seconds_text(time.seconds),
               fmt::format("{:.1f} %", all > 0 ? 100 * time.seconds / all : 0),
               error_text(time.predicted_seconds, time.seconds)});
  }
  return "\n" + table.text();
}

}  // namespace

Json execution_json(const Plan& plan, const Session& session, const Measured& measured) {
  Json devices = Json::array();
  Json predicted_peaks = Json::array();
  for (const DevicePlan& device : plan.devices()) {
    devices.push_back({{"id", device.id},
                       {"name", device.name},
                       {"nodes", device.nodes},
                       {"parameter_bytes", device.parameter_bytes},
                       {"peak_bytes", device.peak_bytes},
                       {"capacity_bytes", device.capacity_bytes},
                       {"flops", device.flops}});
    predicted_peaks.push_back(device.peak_bytes);
  }
  Json transfers = Json::array();
  for (const TransferPlan& transfer : plan.transfers()) {
    transfers.push_back({{"value", transfer.value},
                         {"from", transfer.from},
                         {"to", transfer.to},
                         {"bytes", transfer.bytes},
                         {"phase", transfer.phase}});
  }
  Json used = Json::array();
  Json peak_errors = Json::array();
  Json kept = Json::array();
  for (const ArenaInfo& arena : session.memory()) {
    used.push_back(arena.used_bytes);
    peak_errors.push_back(arena.arena_bytes - arena.used_bytes);
    kept.push_back(arena.kept_bytes);
  }
  Json ops = Json::array();
  for (const OpTime& time : measured.ops) {
    ops.push_back({{"op", time.op},
                   {"calls", time.calls},
                   {"seconds", time.seconds},
                   {"predicted_seconds", time.predicted_seconds},
                   {"error", relative_error(time.predicted_seconds, time.seconds)}});
  }
  Json kernels = Json::array();
  for (const KernelInfo& kernel : session.kernels()) {
    kernels.push_back({{"node", kernel.node},
                       {"op", kernel.op},
                       {"device", kernel.device},
                       {"kernel", kernel.kernel},
                       {"declined", kernel.declined}});
  }
  return {{"devices", devices},
          {"transfers", transfers},
          {"predicted", {{"step_seconds", plan.step_seconds()}, {"peak_bytes", predicted_peaks}}},
          {"measured", {{"step_seconds", measured.step_seconds}, {"peak_bytes", used}, {"kept_bytes", kept}}},
          {"error",
           {{"step_seconds", relative_error(plan.step_seconds(), measured.step_seconds)}, {"peak_bytes", peak_errors}}},
          {"ops", ops},
          {"kernels", kernels}};
}

std::string execution_text(const Plan& plan, const Session& session, const Measured& measured) {
  api::Table table({"device", "nodes", "predicted peak", "used", "kernels"}, {4});
  const std::vector<ArenaInfo> arenas = session.memory();
  std::vector<std::map<std::string, int64_t>> kernels(arenas.size());
  for (const KernelInfo& kernel : session.kernels()) {
    const std::string family = kernel.kernel.substr(0, kernel.kernel.find_first_of(" ,"));
    ++kernels[static_cast<size_t>(kernel.device)][family];
  }
  for (const DevicePlan& device : plan.devices()) {
    std::string names;
    for (const auto& [name, count] : kernels[static_cast<size_t>(device.id)]) {
      names += fmt::format("{}{} {}", names.empty() ? "" : ", ", count, name);
    }
    table.add({device.name, count_text(device.nodes), bytes_text(device.peak_bytes),
               bytes_text(arenas[static_cast<size_t>(device.id)].used_bytes), names});
  }
  std::string kept;
  for (const DevicePlan& device : plan.devices()) {
    const int64_t beside = arenas[static_cast<size_t>(device.id)].kept_bytes;
    if (beside > 0) kept += fmt::format("{}{} on {}", kept.empty() ? "" : ", ", bytes_text(beside), device.name);
  }
  if (!kept.empty()) kept = "beside the arenas, weights in the layouts of kernels: " + kept + "\n";
  int64_t bytes = 0;
  const std::vector<TransferPlan> transfers = plan.transfers();
  for (const TransferPlan& transfer : transfers) bytes += transfer.bytes;
  return table.text() + kept +
         fmt::format("transfers {} ({} per step); step predicted {}, measured {} ({})\n", transfers.size(),
                     bytes_text(bytes), seconds_text(plan.step_seconds()), seconds_text(measured.step_seconds),
                     error_text(plan.step_seconds(), measured.step_seconds)) +
         op_table(measured.ops);
}

std::string execution_summary(const Plan& plan, const Session& session, const Measured& measured) {
  ArenaInfo fullest;
  for (const ArenaInfo& arena : session.memory()) {
    if (arena.arena_bytes >= fullest.arena_bytes) fullest = arena;
  }
  return fmt::format("step predicted {}, measured {} ({}); fullest device predicted {}, used {}",
                     seconds_text(plan.step_seconds()), seconds_text(measured.step_seconds),
                     error_text(plan.step_seconds(), measured.step_seconds), bytes_text(fullest.arena_bytes),
                     bytes_text(fullest.used_bytes));
}

bool records_for_free(const Plan& plan) {
  const std::vector<DevicePlan> devices = plan.devices();
  return std::ranges::all_of(devices, [](const DevicePlan& device) { return device.backend == "cpu"; });
}

Tensor fit_rows(Tensor data, const TensorInfo& input) {
  const std::string where = fmt::format("input \"{}\"", input.name);
  if (data.shape.empty() || input.shape.empty() || row_elements(data.shape) != row_elements(input.shape)) {
    throw Error(ErrorId::M004, where,
                fmt::format("the data is {}{}, whose rows do not fit {}{}", to_string(data.dtype),
                            shape_text(data.shape), to_string(input.dtype), shape_text(input.shape)));
  }
  std::vector<int64_t> shape = input.shape;
  shape[0] = data.shape[0];
  data = data.reshaped(std::move(shape));
  if (data.dtype == input.dtype) return data;
  const bool is_image = data.dtype == DType::u8 && is_floating(input.dtype);
  data = data.converted(input.dtype);
  if (!is_image) return data;
  // Bytes are intensities: 0 to 255 becomes 0 to 1, as image data sets are fed everywhere.
  std::vector<float> values = data.converted(DType::f32).as<float>();
  for (float& value : values) value /= 255.0f;
  return Tensor::from(data.shape, values).converted(input.dtype);
}

Tensor random_input(const TensorInfo& input, uint64_t seed) {
  return random_tensor(input.dtype, input.shape, seed, input.name, input.bound);
}

}  // namespace mpc::tools
