#include "tools/results.h"

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

}  // namespace

Json execution_json(const Plan& plan, const Session& session, double measured_step_seconds) {
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
  for (const ArenaInfo& arena : session.memory()) used.push_back(arena.used_bytes);
  return {{"devices", devices},
          {"transfers", transfers},
          {"predicted", {{"step_seconds", plan.step_seconds()}, {"peak_bytes", predicted_peaks}}},
          {"measured", {{"step_seconds", measured_step_seconds}, {"peak_bytes", used}}}};
}

std::string execution_text(const Plan& plan, const Session& session, double measured_step_seconds) {
  api::Table table({"device", "nodes", "predicted peak", "used", "kernels"}, {4});
  const std::vector<ArenaInfo> arenas = session.memory();
  std::vector<std::map<std::string, int64_t>> kernels(arenas.size());
  for (const KernelInfo& kernel : session.kernels()) {
    const std::string family = kernel.kernel.substr(0, kernel.kernel.find(' '));
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
  int64_t bytes = 0;
  const std::vector<TransferPlan> transfers = plan.transfers();
  for (const TransferPlan& transfer : transfers) bytes += transfer.bytes;
  return table.text() + fmt::format("transfers {} ({} per step); step predicted {}, measured {}\n", transfers.size(),
                                    bytes_text(bytes), seconds_text(plan.step_seconds()),
                                    seconds_text(measured_step_seconds));
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
