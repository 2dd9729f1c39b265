#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/op_kind.h"
#include "compiler/cost/arithmetic.h"
#include "compiler/cost/cluster.h"

namespace mpc {

// Measured rates of a machine. A profile keeps what was measured, not a curve fitted to it: per operator, type of
// numbers and kind of step, the FLOPs, bytes and seconds of every node that was timed. A node that was not timed costs
// what the roofline says, after the constant that every kernel takes, times what the nearest timed nodes of its
// operator took over what that says of them; far from all of them the roofline says more.

/// One node that was timed.
struct OpSample {
  double flops = 0;
  double bytes = 0;    // of its operands
  double seconds = 0;  // of its kernel alone
  bool operator==(const OpSample&) const = default;
};

/// Which nodes one list of samples speaks for.
struct OpKey {
  OpKind op{};
  Arithmetic arithmetic = Arithmetic::f32;
  /// In a training step no weight is constant, so kernels cannot keep it in the order that suits them best.
  bool is_training = false;
  auto operator<=>(const OpKey&) const = default;
};

/// What one backend of the machine does.
class DeviceProfile {
 public:
  std::string backend;                          // "cpu"
  std::string hardware;                         // as the system names it
  std::map<std::string, std::string> versions;  // of mpc, the driver, libraries
  DeviceRates rates;

  /// Adds a sample. @pre all its numbers are finite, bytes or flops and seconds are positive.
  void add(const OpKey& key, const OpSample& sample);
  const std::map<OpKey, std::vector<OpSample>>& samples() const { return samples_; }

  /// Seconds of the kernel of a node: by samples of its key, else of the other kind of step, else of the other type of
  /// 16 bits; under TF32 those of f32 of an operator that has none of its own, since only products round. An operator
  /// that was never timed costs what the roofline says. O(samples of the operator).
  double kernel_seconds(const OpKey& key, double flops, double bytes) const;

 private:
  double roofline_seconds(Arithmetic arithmetic, double flops, double bytes) const;

  std::map<OpKey, std::vector<OpSample>> samples_;
  double least_s_ = std::numeric_limits<double>::infinity();  // of all samples
};

struct LinkProfile {
  std::string from;  // backends
  std::string to;
  double bytes_per_second = 0;
  double latency_s = 0;
  bool is_same_gpu = false;  // between two logical devices on one
};

struct Profile {
  std::vector<DeviceProfile> devices;  // one per backend
  std::vector<LinkProfile> links;      // at most one per ordered pair of backends, and one within a GPU

  const DeviceProfile* find(std::string_view backend) const;
};

/// Reads a profile (docs/cli.md has the format). `where` names the file. @throws Error(M067), Error(M051).
Profile parse_profile(std::string_view json, const std::string& where);
std::string print_profile(const Profile& profile);

/// Gives the devices and links of `cluster` the measured rates. A device or link of which the profile says nothing
/// keeps its own, and a note says so. `where` names the profile. @throws Error(M004) when it says nothing of any
/// device.
void apply_profile(const Profile& profile, const std::string& where, Cluster& cluster);

/// Are the devices on one GPU, as cuda:0.0 and cuda:0.1 are?
bool is_same_gpu(const Device& a, const Device& b);

}  // namespace mpc
