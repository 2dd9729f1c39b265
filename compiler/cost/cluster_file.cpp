#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/json.h"
#include "compiler/base/text.h"
#include "compiler/cost/cluster.h"

// {"devices": [{"name": "a", "kind": "h200"},
//              {"name": "b", "backend": "cpu", "memory_bytes": 8589934592, "flops": {"f32": 5e10},
//              "memory_bandwidth": 1.2e10}],
//  "links": [{"from": "a", "to": "b", "bytes_per_second": 5e10, "latency_seconds": 1e-5}, ...]}
// A device of a known kind takes from the table what the file leaves out. With "links", every ordered pair must be
// there; without, devices are linked as the table says.

namespace mpc {
namespace {

constexpr int64_t kMostDevices = 4096;
constexpr double kMostRate = 1e18;
constexpr double kLeastRate = 1;

class ClusterReader {
 public:
  explicit ClusterReader(const JsonView& root) : root_(root) {}

  Cluster run() {
    root_.require_keys({"devices", "links"});
    const JsonView devices = root_.at("devices");
    const int64_t count = devices.count();
    if (count < 1 || count > kMostDevices)
      devices.fail(fmt::format("has {} devices, must have 1 to {}", count, kMostDevices));
    for (int64_t i = 0; i < count; ++i) read_device(devices.element(i));
    link_all(cluster_);
    if (const auto links = root_.find("links")) read_links(*links);
    return std::move(cluster_);
  }

 private:
  void read_device(const JsonView& row) {
    row.require_keys(
        {"name", "kind", "backend", "memory_bytes", "flops", "memory_bandwidth", "launch_seconds", "threads"});
    Device device;
    device.kind = "custom";
    const auto kind_name = row.find("kind");
    const DeviceKind* kind = kind_name ? find_device_kind(kind_name->text()) : nullptr;
    if (kind_name && kind == nullptr && kind_name->text() != "custom")
      kind_name->fail(fmt::format("'{}' is not a known device kind", kind_name->text()));
    if (kind != nullptr) {
      device.kind = std::string(kind->name);
      device.backend = std::string(kind->backend);
      device.memory_bytes = kind->memory_bytes;
      device.rates = kind->rates;
    }
    device.name = row.at("name").text();
    if (std::ranges::any_of(device.name, [](unsigned char c) { return c < 0x20 || c == 0x7f; }))
      row.fail("a device name holds control characters");
    if (device.name.empty() || !index_.emplace(device.name, cluster_.devices.size()).second)
      row.fail(fmt::format("device name '{}' is empty or used twice", device.name));
    if (const auto backend = row.find("backend")) device.backend = backend->text();
    if (device.backend != "cpu" && device.backend != "cuda")
      row.fail(fmt::format("backend '{}' must be cpu or cuda", device.backend));
    if (kind == nullptr || row.find("memory_bytes"))
      device.memory_bytes = static_cast<int64_t>(row.at("memory_bytes").number(1, 0x1p60));  // 8e9 will do
    if (kind == nullptr || row.find("memory_bandwidth"))
      device.rates.bytes_per_second = row.at("memory_bandwidth").number(kLeastRate, kMostRate);
    if (kind == nullptr || row.find("flops")) read_flops(row.at("flops"), device.rates);
    if (const auto launch = row.find("launch_seconds")) device.rates.launch_s = launch->number(0, 1);
    if (const auto threads = row.find("threads")) device.threads = static_cast<int>(threads->integer(1, 1024));
    if (device.rates.host_bytes_per_second <= 0) device.rates.host_bytes_per_second = device.rates.bytes_per_second;
    cluster_.devices.push_back(std::move(device));
  }

  static void read_flops(const JsonView& row, DeviceRates& rates) {
    row.require_keys({"f32", "tf32", "f16", "bf16", "f64"});
    rates.flops_f32 = row.at("f32").number(kLeastRate, kMostRate);
    const auto half = row.find("bf16") ? row.find("bf16") : row.find("f16");
    rates.flops_f16 = half ? half->number(kLeastRate, kMostRate) : rates.flops_f32;
    const auto tf32 = row.find("tf32");
    rates.flops_tf32 = tf32 ? tf32->number(kLeastRate, kMostRate) : 0;
    const auto f64 = row.find("f64");
    rates.flops_f64 = f64 ? f64->number(kLeastRate, kMostRate) : rates.flops_f32 / 2;
  }

  size_t device_index(const JsonView& name) const {
    const auto found = index_.find(name.text());
    if (found == index_.end()) name.fail(fmt::format("there is no device '{}'", name.text()));
    return found->second;
  }

  void read_links(const JsonView& links) {
    std::set<std::pair<size_t, size_t>> seen;
    const int64_t rows = links.count();
    for (int64_t i = 0; i < rows; ++i) {
      const JsonView row = links.element(i);
      row.require_keys({"from", "to", "bytes_per_second", "latency_seconds"});
      const size_t from = device_index(row.at("from"));
      const size_t to = device_index(row.at("to"));
      if (from == to) row.fail("links a device to itself");
      if (!seen.emplace(from, to).second) row.fail("is given twice");
      Link& link = cluster_.links[from * cluster_.devices.size() + to];
      link.bytes_per_second = row.at("bytes_per_second").number(kLeastRate, kMostRate);
      link.latency_s = row.at("latency_seconds").number(0, 1e3);
    }
    for (size_t from = 0; from < cluster_.devices.size(); ++from) {
      for (size_t to = 0; to < cluster_.devices.size(); ++to) {
        if (from == to || seen.contains({from, to})) continue;
        links.fail(fmt::format("the link from '{}' to '{}' is missing", cluster_.devices[from].name,
                               cluster_.devices[to].name));
      }
    }
  }

  JsonView root_;
  Cluster cluster_;
  std::map<std::string, size_t> index_;
};

}  // namespace

Cluster parse_cluster(std::string_view json, const std::string& where) {
  const Json parsed = parse_json(json, ErrorId::M063, where);
  return ClusterReader(JsonView(parsed, ErrorId::M063, where)).run();
}

}  // namespace mpc
