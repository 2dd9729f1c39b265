#include "compiler/cost/profile.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include <fmt/format.h>

#include "compiler/base/error.h"

namespace mpc {

namespace {

/// The other type of numbers that kernels run as fast in; `arithmetic` itself when there is none.
Arithmetic of_equal_width(Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::bf16) return Arithmetic::f16;
  return arithmetic == Arithmetic::f16 ? Arithmetic::bf16 : arithmetic;
}

}  // namespace

void DeviceProfile::add(const OpKey& key, const OpSample& sample) {
  samples_[key].push_back(sample);
  least_s_ = std::min(least_s_, sample.seconds);
}

double DeviceProfile::roofline_seconds(Arithmetic arithmetic, double flops, double bytes) const {
  // Below this a time is only the clock's noise; it keeps ratios finite for nodes without work.
  constexpr double kLeast = 1e-9;
  return std::max({flops / rates.flops(arithmetic), bytes / rates.bytes_per_second, kLeast});
}

double DeviceProfile::kernel_seconds(const OpKey& key, double flops, double bytes) const {
  // A kernel timed in the other kind of step, or in the other type of 16 bits, is nearer to the truth than the
  // roofline.
  auto found = samples_.find(key);
  for (const Arithmetic arithmetic : {key.arithmetic, of_equal_width(key.arithmetic)}) {
    for (const bool is_training : {key.is_training, !key.is_training}) {
      if (found == samples_.end()) found = samples_.find({key.op, arithmetic, is_training});
    }
  }
  if (found == samples_.end()) {
    return key.arithmetic == Arithmetic::tf32 ? kernel_seconds({key.op, Arithmetic::f32, key.is_training}, flops, bytes)
                                              : roofline_seconds(key.arithmetic, flops, bytes);
  }
  // Without the constant a node of a few bytes takes hundreds of times its roofline, and so would, by its example, a
  // node of megabytes.
  const double constant = std::min(least_s_, rates.launch_s);
  const double expected = constant + roofline_seconds(key.arithmetic, flops, bytes);
  struct Near {
    double distance = 0;
    double log_ratio = 0;  // of measured to expected
  };
  constexpr size_t kNearest = 4;
  std::array<Near, kNearest> nearest;
  size_t count = 0;
  for (const OpSample& sample : found->second) {
    // Twice the FLOPs at the same bytes is as far as twice the bytes at the same FLOPs.
    const double by_flops = std::log((flops + 1) / (sample.flops + 1));
    const double by_bytes = std::log((bytes + 1) / (sample.bytes + 1));
    const double distance = by_flops * by_flops + by_bytes * by_bytes;
    size_t place = count;
    while (place > 0 && nearest[place - 1].distance > distance) --place;
    if (place == kNearest) continue;
    const size_t last = std::min(count, kNearest - 1);
    for (size_t i = last; i > place; --i) nearest[i] = nearest[i - 1];
    nearest[place] = {
        distance, std::log(sample.seconds / (constant + roofline_seconds(key.arithmetic, sample.flops, sample.bytes)))};
    count = std::min(count + 1, kNearest);
  }
  // A node that was timed itself gets its own time: the others weigh a millionth of it.
  constexpr double kSame = 1e-6;
  // A node far from all that was timed is nearer to the roofline than to them: at a thousand times the FLOPs and bytes
  // of the only sample both count half, at ten times the roofline counts a percent.
  const double far = 2 * std::log(1e3) * std::log(1e3);
  double weights = nearest[0].distance / (far * far);
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    const double weight = 1 / (nearest[i].distance + kSame);
    weights += weight;
    sum += weight * nearest[i].log_ratio;
  }
  return expected * std::exp(sum / weights);
}

const DeviceProfile* Profile::find(std::string_view backend) const {
  for (const DeviceProfile& device : devices) {
    if (device.backend == backend) return &device;
  }
  return nullptr;
}

bool is_same_gpu(const Device& a, const Device& b) {
  const auto gpu = [](const Device& device) { return std::string_view(device.name).substr(0, device.name.find('.')); };
  return a.backend == "cuda" && b.backend == "cuda" && gpu(a) == gpu(b);
}

void apply_profile(const Profile& profile, const std::string& where, Cluster& cluster) {
  std::vector<std::shared_ptr<const DeviceProfile>> of_profile;  // shared by the devices of a backend
  for (const DeviceProfile& device : profile.devices) of_profile.push_back(std::make_shared<DeviceProfile>(device));
  size_t measured = 0;
  for (Device& device : cluster.devices) {
    const auto found = std::ranges::find(of_profile, device.backend, [](const auto& p) { return p->backend; });
    if (found == of_profile.end()) {
      cluster.notes.push_back(fmt::format("{} has no {}: {} keeps its rates", where, device.backend, device.name));
      continue;
    }
    ++measured;
    device.measured = *found;
    device.rates = (*found)->rates;
  }
  if (measured == 0) {
    throw Error(ErrorId::M004, where, "is a profile of none of the devices",
                "mpc profile --devices LIST measures those of this machine");
  }
  for (Link& link : cluster.links) {
    if (link.from == link.to) continue;
    const std::string& from = cluster.device(link.from).backend;
    const std::string& to = cluster.device(link.to).backend;
    const bool is_within = is_same_gpu(cluster.device(link.from), cluster.device(link.to));
    const auto row = std::ranges::find_if(profile.links, [&](const LinkProfile& l) {
      return l.from == from && l.to == to && l.is_same_gpu == is_within;
    });
    if (row == profile.links.end()) {
      const std::string note = fmt::format("{} has no link from {} to {}{}: links keep their rates", where, from, to,
                                           is_within ? " within a GPU" : "");
      if (std::ranges::find(cluster.notes, note) == cluster.notes.end()) cluster.notes.push_back(note);
      continue;
    }
    link.bytes_per_second = row->bytes_per_second;
    link.latency_s = row->latency_s;
  }
}

}  // namespace mpc
