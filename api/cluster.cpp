#include "mpc/cluster.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/impl.h"
#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/json.h"
#include "compiler/base/text.h"
#include "executor/cuda/has_kernel.h"
#include "executor/device/plugin.h"

namespace mpc::v1 {
namespace {

constexpr int kMostDevices = 4096;

Cluster wrap(mpc::Cluster cluster) {
  return Cluster(std::make_shared<Cluster::Impl>(Cluster::Impl{std::move(cluster)}));
}

/// `count` devices of the kind that a JSON file describes (one device of a cluster file).
mpc::Cluster cluster_of_file_kind(int count, const std::string& path) {
  const Json kind = read_json_file(path, ErrorId::M063);
  if (!kind.is_object()) throw Error(ErrorId::M063, path, "is not a JSON object that describes a device");
  Json devices = Json::array();
  for (int i = 0; i < count; ++i) {
    Json device = kind;
    device["name"] = fmt::format("cuda:{}", i);
    devices.push_back(std::move(device));
  }
  return parse_cluster(json_text(Json{{"devices", std::move(devices)}}), path);
}

/// Empty for a GPU that the table does not have.
std::string kind_name(const DeviceKind* kind) {
  return kind == nullptr ? std::string() : std::string(kind->name);
}

}  // namespace

LocalGpus local_gpus() {
  const executor::CudaInventory inventory = executor::cuda_inventory();
  LocalGpus result;
  result.plugin = inventory.plugin_path;
  result.reason = inventory.reason;
  for (const mpc_cuda_facts& facts : inventory.devices) {
    result.gpus.push_back(
        {fmt::format("cuda:{}", facts.ordinal), facts.name, fmt::format("{}.{}", facts.major, facts.minor),
         kind_name(device_kind_of_model(facts.name, facts.memory_bytes)), facts.memory_bytes, facts.free_bytes});
  }
  for (const mpc_cuda_library& library : inventory.libraries) {
    result.libraries.push_back({library.name, library.is_there != 0, library.version, library.path, library.costs});
  }
  return result;
}

bool has_cuda_kernel(const std::string& op) {
  const std::optional<OpKind> kind = find_op(op);
  return kind && cuda::has_kernel(*kind);
}

std::string_view assumed_gpu_kind() {
  return kAssumedGpuKind;
}

std::vector<HardwareKind> known_hardware() {
  std::vector<HardwareKind> kinds;
  for (const DeviceKind& kind : device_kinds()) {
    kinds.push_back({std::string(kind.name), std::string(kind.backend), kind.memory_bytes, kind.rates.flops_f32,
                     kind.rates.bytes_per_second, std::string(kind.source)});
  }
  return kinds;
}

Cluster Cluster::gpus(int count, const std::string& kind_or_file) {
  if (count < 1 || count > kMostDevices) {
    throw Error(ErrorId::M003, fmt::format("--gpus {}", count),
                fmt::format("the number of devices must be in [1, {}]", kMostDevices));
  }
  if (const DeviceKind* kind = find_device_kind(kind_or_file)) return wrap(uniform_cluster(*kind, count));
  if (kind_or_file.find('/') != std::string::npos || kind_or_file.ends_with(".json")) {
    return wrap(cluster_of_file_kind(count, kind_or_file));
  }
  std::vector<std::string> names;
  for (const DeviceKind& kind : device_kinds()) names.emplace_back(kind.name);
  const std::optional<std::string> near = nearest(kind_or_file, names);
  throw Error(
      ErrorId::M002, fmt::format("--gpu-type {}", kind_or_file), "is not a known kind of device",
      near ? fmt::format("did you mean {}?", *near) : "`mpc devices` lists them; a JSON file describes another one");
}

Cluster Cluster::devices(const std::string& text, const std::string& gpu_kind) {
  return wrap(parse_devices(text, gpu_kind));
}

Cluster Cluster::load(const std::string& path) {
  return wrap(parse_cluster(read_text_file(path, kMaxJsonBytes), path));
}

Cluster Cluster::with_memory(const std::string& text) const {
  mpc::Cluster capped = impl().cluster;
  cap_memory(capped, text);
  return wrap(std::move(capped));
}

Cluster Cluster::with_memory(const std::vector<int64_t>& bytes) const {
  mpc::Cluster capped = impl().cluster;
  for (size_t d = 0; d < std::min(bytes.size(), capped.devices.size()); ++d) {
    capped.devices[d].memory_bytes = std::min(capped.devices[d].memory_bytes, bytes[d]);
  }
  return wrap(std::move(capped));
}

Cluster Cluster::in_nodes(int devices_per_node, double bytes_per_second) const {
  mpc::Cluster linked = impl().cluster;
  link_nodes(linked, devices_per_node, bytes_per_second);
  return wrap(std::move(linked));
}

int Cluster::device_count() const {
  return impl().cluster.count();
}
std::string Cluster::device_name(int device) const {
  return impl().cluster.device(DeviceId(device)).name;
}
std::string Cluster::backend(int device) const {
  return impl().cluster.device(DeviceId(device)).backend;
}
int64_t Cluster::memory_bytes(int device) const {
  return impl().cluster.device(DeviceId(device)).memory_bytes;
}
std::vector<std::string> Cluster::notes() const {
  return impl().cluster.notes;
}

}  // namespace mpc::v1
