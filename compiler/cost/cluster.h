#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/ids.h"
#include "compiler/cost/arithmetic.h"

namespace mpc {

class DeviceProfile;  // compiler/cost/profile.h

/// What a device can do per second: rates, to which compiler/cost/estimate.h applies an op's quantities.
struct DeviceRates {
  double flops_f32 = 0;  // matrix arithmetic in f32
  double flops_f16 = 0;  // in f16 and bf16 with f32 accumulation
  double flops_f64 = 0;
  double bytes_per_second = 0;       // of its memory
  double launch_s = 0;               // fixed cost of one node
  double host_bytes_per_second = 0;  // copies from and to the host
  double flops_tf32 = 0;             // of products of f32 whose operands are rounded; 0: like flops_f32
  double flops(Arithmetic arithmetic) const;
  bool operator==(const DeviceRates&) const = default;
};

/// A row of the table of known hardware.
struct DeviceKind {
  std::string_view name;     // "h100-80g"
  std::string_view backend;  // "cuda", "cpu"
  std::string_view model;    // part of the name that drivers give it: "H100 PCIe"
  int64_t memory_bytes;
  DeviceRates rates;
  double peer_bytes_per_second;  // to another one of its kind in the same machine
  double peer_latency_s;
  std::string_view source;  // where the figures come from
};

std::span<const DeviceKind> device_kinds();
const DeviceKind* find_device_kind(std::string_view name);
/// The row for the name that a driver gives a device: the longest that is part of it, then the nearest memory; null
/// when there is none.
const DeviceKind* device_kind_of_model(std::string_view model, int64_t memory_bytes);
/// The kind assumed when planning for GPUs that are not at hand.
inline constexpr std::string_view kAssumedGpuKind = "h100-80g";

struct Device {
  std::string name;     // "cuda:0"
  std::string backend;  // "cuda" or "cpu"
  std::string kind;     // row of the table, or "custom"
  int64_t memory_bytes = 0;
  DeviceRates rates;
  int threads = 1;              // CPU
  bool rounds_to_tf32 = false;  // products of f32 may round their operands
  /// Measured times of operators, beside which `rates` are a summary; null: nothing was measured. Shared: a profile is
  /// read only and clusters are copied often.
  std::shared_ptr<const DeviceProfile> measured = nullptr;
};

/// Does every operator take the same time on both?
bool are_alike(const Device& a, const Device& b);

struct Link {
  DeviceId from;
  DeviceId to;
  double bytes_per_second = 0;
  double latency_s = 0;
};

/// The devices a model is planned for, and a link between every ordered pair.
struct Cluster {
  std::vector<Device> devices;
  std::vector<Link> links;  // from * devices.size() + to; the diagonal is unused
  std::vector<std::string> notes;

  int count() const { return static_cast<int>(devices.size()); }
  const Device& device(DeviceId id) const { return devices[id.index()]; }
  const Link& link(DeviceId from, DeviceId to) const { return links[from.index() * devices.size() + to.index()]; }
};

/// `count` devices of one kind, linked as the table says. Names are "<backend>:<i>".
Cluster uniform_cluster(const DeviceKind& kind, int count);
/// Links every pair: within a kind by its peer figures, between kinds through the host.
void link_all(Cluster& cluster);
/// Puts every `per_node` devices, in their order, into a node of machines: links between nodes carry `bytes_per_second`
/// and take longer to begin, links within a node stay. O(devices^2). @throws Error(M003) for a number that is none.
void link_nodes(Cluster& cluster, int per_node, double bytes_per_second);

/// Parses `--devices`: "cpu:2", "cpu,cpu", "cuda:0,cuda:1", "cuda:0*2", "cpu,cuda:0". @throws Error(M003).
Cluster parse_devices(std::string_view text, std::string_view gpu_kind);
/// Applies `--memory 16GiB` or `--memory 20GiB,10GiB`. @throws Error(M003).
void cap_memory(Cluster& cluster, std::string_view text);
/// Reads a cluster file (docs/cli.md). @throws Error(M063).
Cluster parse_cluster(std::string_view json, const std::string& where);

}  // namespace mpc
