#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/table.h"
#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "mpc/mpc.h"
#include "tools/command.h"
#include "tools/console.h"

namespace mpc::tools {
namespace {

struct LinkMeasurement {
  double bytes_per_second = 0;
  bool is_verified = false;
};

/// Copies a pattern between two host arenas, as a transfer between CPU devices does, and reads it back.
LinkMeasurement measure_host_link() {
  constexpr size_t kWords = size_t{4} << 20;  // 32 MiB: larger than the caches of a core
  constexpr int kRepetitions = 5;
  std::vector<uint64_t> from(kWords);
  std::vector<uint64_t> to(kWords, 0);
  for (size_t i = 0; i < kWords; ++i) from[i] = i * 0x9E3779B97F4A7C15u;
  LinkMeasurement result;
  for (int i = 0; i < kRepetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    std::copy(from.begin(), from.end(), to.begin());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (seconds > 0)
      result.bytes_per_second =
          std::max(result.bytes_per_second, static_cast<double>(kWords * sizeof(uint64_t)) / seconds);
  }
  result.is_verified = from == to;
  return result;
}

std::string rate_text(double per_second) {
  return bytes_text(static_cast<int64_t>(per_second)) + "/s";
}

int list_devices(const Console& console) {
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const int64_t memory = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  const LinkMeasurement link = measure_host_link();
  if (!link.is_verified) throw Error(ErrorId::M081, "cpu:0 to cpu:1", "what was read back is not what was written");
  std::string text =
      fmt::format("cpu     {} cores, {} of memory; --devices cpu:N makes N devices\n", cores, bytes_text(memory));
  const LocalGpus local = local_gpus();
  if (local.gpus.empty()) text += fmt::format("cuda    none: {}\n", local.reason);
  for (const LocalGpu& gpu : local.gpus) {
    text +=
        fmt::format("{}  {}, compute capability {}, {} of memory, {} free; --devices {}*N makes N devices\n", gpu.name,
                    gpu.model, gpu.capability, bytes_text(gpu.memory_bytes), bytes_text(gpu.free_bytes), gpu.name);
  }
  for (const GpuLibrary& library : local.libraries) {
    text += library.is_there
                ? fmt::format("        {} {} ({})\n", library.name, library.version, library.path)
                : fmt::format("        {} is missing: {}; {}\n", library.name, library.costs, library.path);
  }
  text += fmt::format("link    cpu to cpu: {} measured, read back and equal\n\n", rate_text(link.bytes_per_second));
  std::vector<std::string> titles = {"kind", "backend", "memory", "f32", "memory rate"};
  if (console.is_verbose) titles.push_back("source");
  api::Table table(titles, {1, 5});
  Json kinds = Json::array();
  for (const HardwareKind& kind : known_hardware()) {
    std::vector<std::string> row = {kind.name, kind.backend, bytes_text(kind.memory_bytes),
                                    flops_text(kind.flops_f32) + "/s", rate_text(kind.bytes_per_second)};
    if (console.is_verbose) row.push_back(kind.source);
    table.add(std::move(row));
    kinds.push_back({{"name", kind.name},
                     {"backend", kind.backend},
                     {"memory_bytes", kind.memory_bytes},
                     {"flops_f32", kind.flops_f32},
                     {"memory_bandwidth", kind.bytes_per_second},
                     {"source", kind.source}});
  }
  console.say(text + "kinds that can be planned for (--gpu-type; -v says where the figures come from):\n" +
              table.text());
  Json devices = {{{"name", "cpu"}, {"cores", cores}, {"memory_bytes", memory}}};
  for (const LocalGpu& gpu : local.gpus) {
    devices.push_back({{"name", gpu.name},
                       {"model", gpu.model},
                       {"capability", gpu.capability},
                       {"kind", gpu.kind},
                       {"memory_bytes", gpu.memory_bytes},
                       {"free_bytes", gpu.free_bytes}});
  }
  Json libraries = Json::array();
  for (const GpuLibrary& library : local.libraries) {
    libraries.push_back({{"name", library.name},
                         {"there", library.is_there},
                         {"version", library.version},
                         {"path", library.path},
                         {"costs", library.costs}});
  }
  console.json({{"devices", devices},
                {"cuda", {{"plugin", local.plugin}, {"reason", local.reason}, {"libraries", libraries}}},
                {"links",
                 {{{"from", "cpu"},
                   {"to", "cpu"},
                   {"bytes_per_second", link.bytes_per_second},
                   {"verified", link.is_verified}}}},
                {"kinds", kinds}});
  return 0;
}

}  // namespace

Body add_devices(CommandLine&) {
  return [](Console& console) { return list_devices(console); };
}

}  // namespace mpc::tools
