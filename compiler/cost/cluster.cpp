#include "compiler/cost/cluster.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/text.h"

namespace mpc {
namespace {

constexpr int kMostDevices = 4096;

std::string known_kinds() {
  std::string names;
  for (const DeviceKind& kind : device_kinds()) names += (names.empty() ? "" : ", ") + std::string(kind.name);
  return names;
}

Device make_device(const DeviceKind& kind, std::string name) {
  return {std::move(name), std::string(kind.backend), std::string(kind.name), kind.memory_bytes, kind.rates, 1};
}

[[noreturn]] void bad_devices(std::string_view text, const std::string& what) {
  throw Error(ErrorId::M003, fmt::format("--devices {}", text), what,
              "for example cpu:2, cuda:0,cuda:1, cuda:0*2 or cpu,cuda:0");
}

// "cpu:2" is two CPU devices; "cuda:1" is GPU number 1; "cuda:1*3" is three logical devices on it.
void append_devices(Cluster& cluster, std::string_view text, std::string_view item, const DeviceKind& gpu) {
  int64_t copies = 1;
  if (const size_t star = item.find('*'); star != std::string_view::npos) {
    const auto parsed = parse_integer(item.substr(star + 1));
    if (!parsed || *parsed < 1 || *parsed > kMostDevices)
      bad_devices(text, fmt::format("'{}' is not a number of devices", item.substr(star + 1)));
    copies = *parsed;
    item = item.substr(0, star);
  }
  const size_t colon = item.find(':');
  const std::string_view backend = item.substr(0, colon);
  std::optional<int64_t> number;
  if (colon != std::string_view::npos) {
    number = parse_integer(item.substr(colon + 1));
    if (!number || *number < 0 || *number > kMostDevices)
      bad_devices(text, fmt::format("'{}' is not a device number", item.substr(colon + 1)));
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

double DeviceRates::flops(Arithmetic arithmetic) const {
  switch (arithmetic) {
    case Arithmetic::f32:
      return flops_f32;
    case Arithmetic::tf32:
      return flops_tf32 > 0 ? flops_tf32 : flops_f32;
    case Arithmetic::f64:
      return flops_f64;
    case Arithmetic::bf16:
    case Arithmetic::f16:
      return flops_f16;
  }
  return flops_f32;
}

bool are_alike(const Device& a, const Device& b) {
  return a.backend == b.backend && a.rates == b.rates && a.threads == b.threads &&
         a.rounds_to_tf32 == b.rounds_to_tf32 && a.measured == b.measured;
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

void link_nodes(Cluster& cluster, int per_node, double bytes_per_second) {
  constexpr double kNodeLatency = 20e-6;  // a message between two GPUs through their network adapters, and its answer
  if (per_node < 1 || per_node > kMostDevices) {
    throw Error(ErrorId::M003, "devices per node", fmt::format("are {}, must be in [1, {}]", per_node, kMostDevices));
  }
  if (!(bytes_per_second >= 1) || !std::isfinite(bytes_per_second)) {
    throw Error(ErrorId::M003, "links between nodes",
                fmt::format("carry {} bytes per second, must be at least 1", bytes_per_second));
  }
  for (Link& link : cluster.links) {
    const auto size = static_cast<size_t>(per_node);
    if (link.from.index() / size == link.to.index() / size) continue;
    link.bytes_per_second = bytes_per_second;
    link.latency_s = kNodeLatency;
  }
}

Cluster parse_devices(std::string_view text, std::string_view gpu_kind) {
  const DeviceKind* gpu = find_device_kind(gpu_kind);
  if (gpu == nullptr)
    throw Error(ErrorId::M002, "--gpu-type", fmt::format("'{}' is not a known device kind", gpu_kind),
                "use one of " + known_kinds());
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
    throw Error(ErrorId::M003, fmt::format("--memory {}", text),
                fmt::format("has {} sizes for {} devices", items.size(), cluster.devices.size()),
                "give one size, or one for each device");
  }
  for (size_t i = 0; i < cluster.devices.size(); ++i) {
    const std::string& item = items[items.size() == 1 ? 0 : i];
    const auto bytes = parse_bytes(item);
    if (!bytes || *bytes <= 0)
      throw Error(ErrorId::M003, fmt::format("--memory {}", text), fmt::format("'{}' is not a size", item),
                  "for example 16GiB, 2.4MiB or 512MB");
    cluster.devices[i].memory_bytes = *bytes;
  }
}

}  // namespace mpc
