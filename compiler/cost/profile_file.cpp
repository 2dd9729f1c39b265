#include <cmath>
#include <set>
#include <tuple>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/json.h"
#include "compiler/base/text.h"
#include "compiler/cost/profile.h"

// {"version": 1,
//  "devices": [{"backend": "cpu", "hardware": "...", "versions": {"mpc": "0.1.0"},
//               "flops": {"f32": 2e11, "tf32": 2e11, "f16": 1e9, "f64": 1e9}, "memory_bandwidth": 2e10,
//               "host_bandwidth": 1e10, "launch_seconds": 1e-6, "ops": [{"op": "Conv", "dtype": "f32", "training":
//               false, "samples": [[flops, bytes, seconds],
//               ...]}]}],
//  "links": [{"from": "cpu", "to": "cpu", "same_gpu": false, "bytes_per_second": 1e10, "latency_seconds": 1e-5}]}

namespace mpc {
namespace {

constexpr int64_t kVersion = 1;
constexpr int64_t kMostDevices = 64;
constexpr int64_t kMostLinks = kMostDevices * kMostDevices;
constexpr int64_t kMostRows = 4096;
constexpr int64_t kMostSamples = 4096;  // of one row: a node's time is looked up among them
constexpr int64_t kMostVersions = 64;
constexpr double kMostRate = 1e18;
constexpr double kLeastRate = 1;
constexpr double kMostWork = 1e24;
constexpr double kMostSeconds = 1e6;
constexpr double kLeastSeconds = 1e-12;

/// A backend's name as it may stand in messages. @throws Error(M067).
std::string read_backend(const JsonView& text) {
  const std::string& name = text.text();
  if (name != "cpu" && name != "cuda") text.fail(fmt::format("is {}, must be \"cpu\" or \"cuda\"", in_quotes(name)));
  return name;
}

void read_ops(const JsonView& rows, DeviceProfile& device) {
  const int64_t count = rows.count();
  if (count > kMostRows) rows.fail(fmt::format("has {} rows, may have {}", count, kMostRows));
  std::set<OpKey> seen;
  for (int64_t i = 0; i < count; ++i) {
    const JsonView row = rows.element(i);
    row.require_keys({"op", "dtype", "training", "samples"});
    const JsonView op = row.at("op");
    const JsonView dtype = row.at("dtype");
    const std::optional<OpKind> kind = find_op(op.text());
    const std::optional<Arithmetic> type = parse_arithmetic(dtype.text());
    if (!kind) op.fail(fmt::format("{} is not an operator", in_quotes(op.text())));
    if (!type) dtype.fail(fmt::format("{} is not a type of numbers", in_quotes(dtype.text())));
    const OpKey key{*kind, *type, row.at("training").flag()};
    if (!seen.insert(key).second) row.fail("repeats an earlier row");
    const JsonView samples = row.at("samples");
    const int64_t length = samples.count();
    if (length < 1 || length > kMostSamples)
      samples.fail(fmt::format("has {} samples, must have 1 to {}", length, kMostSamples));
    for (int64_t s = 0; s < length; ++s) {
      const JsonView sample = samples.element(s);
      if (sample.count() != 3) sample.fail("must be [FLOPs, bytes, seconds]");
      device.add(key, {sample.element(0).number(0, kMostWork), sample.element(1).number(0, kMostWork),
                       sample.element(2).number(kLeastSeconds, kMostSeconds)});
    }
  }
}

DeviceProfile read_device(const JsonView& row) {
  row.require_keys(
      {"backend", "hardware", "versions", "flops", "memory_bandwidth", "host_bandwidth", "launch_seconds", "ops"});
  DeviceProfile device;
  device.backend = read_backend(row.at("backend"));
  device.hardware = row.at("hardware").text();
  if (const auto versions = row.find("versions")) {
    versions->for_each_member([&](const std::string& name, const JsonView& version) {
      if (static_cast<int64_t>(device.versions.size()) == kMostVersions) versions->fail("has too many members");
      device.versions[name] = version.text();
    });
  }
  const JsonView flops = row.at("flops");
  flops.require_keys({"f32", "tf32", "f16", "f64"});
  device.rates.flops_f32 = flops.at("f32").number(kLeastRate, kMostRate);
  if (const auto tf32 = flops.find("tf32")) device.rates.flops_tf32 = tf32->number(kLeastRate, kMostRate);
  device.rates.flops_f16 = flops.at("f16").number(kLeastRate, kMostRate);
  device.rates.flops_f64 = flops.at("f64").number(kLeastRate, kMostRate);
  device.rates.bytes_per_second = row.at("memory_bandwidth").number(kLeastRate, kMostRate);
  device.rates.host_bytes_per_second = row.at("host_bandwidth").number(kLeastRate, kMostRate);
  device.rates.launch_s = row.at("launch_seconds").number(0, 1);
  read_ops(row.at("ops"), device);
  return device;
}

LinkProfile read_link(const JsonView& row) {
  row.require_keys({"from", "to", "same_gpu", "bytes_per_second", "latency_seconds"});
  const auto same_gpu = row.find("same_gpu");
  return {read_backend(row.at("from")), read_backend(row.at("to")),
          row.at("bytes_per_second").number(kLeastRate, kMostRate), row.at("latency_seconds").number(0, 1e3),
          same_gpu && same_gpu->flag()};
}

}  // namespace

Profile parse_profile(std::string_view json, const std::string& where) {
  const Json parsed = parse_json(json, ErrorId::M067, where);
  const JsonView root(parsed, ErrorId::M067, where);
  root.require_keys({"version", "devices", "links"});
  const JsonView version = root.at("version");
  if (version.integer() != kVersion)
    version.fail(fmt::format("must be {}", kVersion), "measure again with this version of mpc");
  Profile profile;
  const JsonView devices = root.at("devices");
  const int64_t count = devices.count();
  if (count < 1 || count > kMostDevices)
    devices.fail(fmt::format("has {} devices, must have 1 to {}", count, kMostDevices));
  for (int64_t i = 0; i < count; ++i) {
    DeviceProfile device = read_device(devices.element(i));
    if (profile.find(device.backend) != nullptr) devices.element(i).fail("its backend is given twice");
    profile.devices.push_back(std::move(device));
  }
  const JsonView links = root.at("links");
  const int64_t link_count = links.count();
  if (link_count > kMostLinks) links.fail(fmt::format("has {} links, may have {}", link_count, kMostLinks));
  std::set<std::tuple<std::string, std::string, bool>> seen;
  for (int64_t i = 0; i < link_count; ++i) {
    LinkProfile link = read_link(links.element(i));
    if (!seen.emplace(link.from, link.to, link.is_same_gpu).second) links.element(i).fail("is given twice");
    profile.links.push_back(std::move(link));
  }
  return profile;
}

std::string print_profile(const Profile& profile) {
  Json devices = Json::array();
  for (const DeviceProfile& device : profile.devices) {
    Json ops = Json::array();
    for (const auto& [key, list] : device.samples()) {
      Json samples = Json::array();
      for (const OpSample& sample : list) samples.push_back({sample.flops, sample.bytes, sample.seconds});
      ops.push_back({{"op", op_name(key.op)},
                     {"dtype", arithmetic_name(key.arithmetic)},
                     {"training", key.is_training},
                     {"samples", std::move(samples)}});
    }
    const DeviceRates& rates = device.rates;
    Json flops = {{"f32", rates.flops_f32}, {"f16", rates.flops_f16}, {"f64", rates.flops_f64}};
    if (rates.flops_tf32 > 0) flops["tf32"] = rates.flops_tf32;
    devices.push_back({{"backend", device.backend},
                       {"hardware", device.hardware},
                       {"versions", device.versions},
                       {"flops", std::move(flops)},
                       {"memory_bandwidth", rates.bytes_per_second},
                       {"host_bandwidth", rates.host_bytes_per_second},
                       {"launch_seconds", rates.launch_s},
                       {"ops", std::move(ops)}});
  }
  Json links = Json::array();
  for (const LinkProfile& link : profile.links) {
    links.push_back({{"from", link.from},
                     {"to", link.to},
                     {"same_gpu", link.is_same_gpu},
                     {"bytes_per_second", link.bytes_per_second},
                     {"latency_seconds", link.latency_s}});
  }
  return json_text(Json{{"version", kVersion}, {"devices", std::move(devices)}, {"links", std::move(links)}}) + "\n";
}

}  // namespace mpc
