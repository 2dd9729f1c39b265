#include "compiler/cost/cluster.h"

#include <algorithm>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/text.h"

namespace mpc {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr int kMostDevices = 4096;

// Achievable rates, not peaks: dense matrix rates a well-tuned library reaches on large operands, streaming memory rates,
// and about 5 us per kernel launch. `source` says what each row was taken from.
constexpr DeviceKind kKinds[] = {
    {"cpu", "cpu", 8 * kGiB, {50e9, 25e9, 25e9, 12e9, 2e-6, 12e9}, 6e9, 4e-6,
     "one core with AVX2: 50 GFLOP/s f32 in GEMM, 12 GB/s streaming; a transfer is a memcpy between two arenas"},
    {"a100-40g", "cuda", 40 * kGiB, {17e12, 250e12, 15e12, 1.3e12, 5e-6, 22e9}, 240e9, 8e-6,
     "NVIDIA A100 datasheet: 19.5 TFLOP/s f32, 312 bf16, 1.56 TB/s, NVLink3 300 GB/s per direction; about 85 % reached"},
    {"a100-80g", "cuda", 80 * kGiB, {17e12, 250e12, 15e12, 1.7e12, 5e-6, 22e9}, 240e9, 8e-6,
     "NVIDIA A100 80GB datasheet: 19.5 TFLOP/s f32, 312 bf16, 2.04 TB/s, NVLink3 300 GB/s per direction; about 85 % reached"},
    {"h100-80g", "cuda", 80 * kGiB, {52e12, 700e12, 52e12, 2.9e12, 5e-6, 50e9}, 370e9, 8e-6,
     "NVIDIA H100 SXM datasheet: 67 TFLOP/s f32, 989 bf16, 3.35 TB/s, NVLink4 450 GB/s per direction; shares reached as on H200"},
    {"h200", "cuda", 141 * 1000000000LL, {52e12, 790e12, 52e12, 4.3e12, 5e-6, 55e9}, 370e9, 8e-6,
     "NVIDIA H200: 790 TFLOP/s bf16 and 4.3 TB/s measured; 67 TFLOP/s f32 and NVLink4 450 GB/s by datasheet"},
    {"b200", "cuda", 180 * 1000000000LL, {65e12, 1800e12, 30e12, 6.8e12, 5e-6, 55e9}, 740e9, 8e-6,
     "NVIDIA B200 datasheet: 80 TFLOP/s f32, 2250 bf16, 8 TB/s, NVLink5 900 GB/s per direction; about 80 to 85 % reached"},
    {"l40s", "cuda", 48 * kGiB, {60e12, 290e12, 1.2e12, 0.75e12, 5e-6, 25e9}, 22e9, 15e-6,
     "NVIDIA L40S datasheet: 91.6 TFLOP/s f32, 362 bf16, 864 GB/s, PCIe 4 x16"},
    {"rtx4090", "cuda", 24 * kGiB, {60e12, 140e12, 1.1e12, 0.9e12, 5e-6, 25e9}, 20e9, 20e-6,
     "NVIDIA Ada whitepaper: 82.6 TFLOP/s f32, 165 bf16 with f32 accumulation, 1008 GB/s, PCIe 4 x16 through the host"},
    {"v100-16g", "cuda", 16 * kGiB, {13e12, 100e12, 6.5e12, 0.78e12, 5e-6, 11e9}, 120e9, 9e-6,
     "NVIDIA V100 datasheet: 15.7 TFLOP/s f32, 125 f16, 900 GB/s, NVLink2 150 GB/s per direction"},
};

std::string known_kinds() {
  std::string names;
  for (const DeviceKind& kind : kKinds) names += (names.empty() ? "" : ", ") + std::string(kind.name);
  return names;
}

Device make_device(const DeviceKind& kind, std::string name) {
  return {std::move(name), std::string(kind.backend), std::string(kind.name), kind.memory_bytes, kind.rates, 1};
}

[[noreturn]] void bad_devices(std::string_view text, const std::string& what) {
  throw Error(ErrorId::M003, fmt::format("--devices {}", text), what, "for example cpu:2, cuda:0,cuda:1, cuda:0*2 or cpu,cuda:0");
}

// "cpu:2" is two CPU devices; "cuda:1" is GPU number 1; "cuda:1*3" is three logical devices on it.
void append_devices(Cluster& cluster, std::string_view text, std::string_view item, const DeviceKind& gpu) {
  int64_t copies = 1;
  if (const size_t star = item.find('*'); star != std::string_view::npos) {
    const auto parsed = parse_integer(item.substr(star + 1));
    if (!parsed || *parsed < 1 || *parsed > kMostDevices) bad_devices(text, fmt::format("'{}' is not a number of devices", item.substr(star + 1)));
    copies = *parsed;
    item = item.substr(0, star);
  }
  const size_t colon = item.find(':');
  const std::string_view backend = item.substr(0, colon);
  std::optional<int64_t> number;
  if (colon != std::string_view::npos) {
    number = parse_integer(item.substr(colon + 1));
    if (!number || *number < 0 || *number > kMostDevices) bad_devices(text, fmt::format("'{}' is not a device number", item.substr(colon + 1)));
  }
  if (backend == "cpu") {
    const int64_t count = number.value_or(1) * copies;
    if (count < 1 || count > kMostDevices) bad_devices(text, "at least one device is needed");
    for (int64_t i = 0; i < count; ++i) cluster.devices.push_back(make_device(*find_device_kind("cpu"), ""));
    return;
  }
  if (backend != "cuda") bad_devices(text, fmt::format("'{}' is not a kind of device (cpu, cuda)", backend));
  for (int64_t i = 0; i < copies; ++i) {
    const std::string name = fmt::format("cuda:{}", number.value_or(0));
    cluster.devices.push_back(make_device(gpu, copies == 1 ? name : fmt::format("{}.{}", name, i)));
  }
}

}  // namespace

double DeviceRates::flops(DType dtype) const {
  if (dtype == DType::f16 || dtype == DType::bf16) return flops_f16;
  return dtype == DType::f64 ? flops_f64 : flops_f32;
}

std::span<const DeviceKind> device_kinds() { return kKinds; }

const DeviceKind* find_device_kind(std::string_view name) {
  for (const DeviceKind& kind : kKinds) {
    if (kind.name == name) return &kind;
  }
  return nullptr;
}

Cluster uniform_cluster(const DeviceKind& kind, int count) {
  Cluster cluster;
  for (int i = 0; i < count; ++i) cluster.devices.push_back(make_device(kind, fmt::format("{}:{}", kind.backend, i)));
  link_all(cluster);
  return cluster;
}

void link_all(Cluster& cluster) {
  const size_t count = cluster.devices.size();
  cluster.links.assign(count * count, {});
  for (size_t from = 0; from < count; ++from) {
    for (size_t to = 0; to < count; ++to) {
      const Device& a = cluster.devices[from];
      const Device& b = cluster.devices[to];
      const DeviceKind* kind = find_device_kind(a.kind);
      Link link{DeviceId(from), DeviceId(to), 0, 0};
      if (a.kind == b.kind && kind != nullptr) {
        link.bytes_per_second = kind->peer_bytes_per_second;
        link.latency_s = kind->peer_latency_s;
      } else {
        constexpr double kHostLatency = 15e-6;  // two copies and a wake-up
        link.bytes_per_second = std::min(a.rates.host_bytes_per_second, b.rates.host_bytes_per_second);
        link.latency_s = kHostLatency;
      }
      cluster.links[from * count + to] = link;
    }
  }
}

Cluster parse_devices(std::string_view text, std::string_view gpu_kind) {
  const DeviceKind* gpu = find_device_kind(gpu_kind);
  if (gpu == nullptr) throw Error(ErrorId::M002, "--gpu-type", fmt::format("'{}' is not a known device kind", gpu_kind), "use one of " + known_kinds());
  Cluster cluster;
  for (const std::string& item : split(text, ',')) append_devices(cluster, text, item, *gpu);
  if (cluster.devices.size() > kMostDevices) bad_devices(text, fmt::format("more than {} devices", kMostDevices));
  int next_cpu = 0;
  for (Device& device : cluster.devices) {
    if (device.backend == "cpu") device.name = fmt::format("cpu:{}", next_cpu++);
  }
  for (size_t i = 0; i < cluster.devices.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (cluster.devices[i].name == cluster.devices[j].name) {
        bad_devices(text, fmt::format("{} is named twice", cluster.devices[i].name));
      }
    }
  }
  link_all(cluster);
  return cluster;
}

void cap_memory(Cluster& cluster, std::string_view text) {
  const std::vector<std::string> items = split(text, ',');
  if (items.size() != 1 && items.size() != cluster.devices.size()) {
    throw Error(ErrorId::M003, fmt::format("--memory {}", text), fmt::format("has {} sizes for {} devices", items.size(), cluster.devices.size()), "give one size, or one for each device");
  }
  for (size_t i = 0; i < cluster.devices.size(); ++i) {
    const std::string& item = items[items.size() == 1 ? 0 : i];
    const auto bytes = parse_bytes(item);
    if (!bytes || *bytes <= 0) throw Error(ErrorId::M003, fmt::format("--memory {}", text), fmt::format("'{}' is not a size", item), "for example 16GiB, 2.4MiB or 512MB");
    cluster.devices[i].memory_bytes = *bytes;
  }
}

}  // namespace mpc
