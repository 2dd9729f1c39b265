#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mpc/cluster.h"
#include "mpc/model.h"
#include "mpc/namespace.h"

namespace mpc::v1 {

/// A model whose nodes are timed.
struct ProfileModel {
  Model model;
  Bindings bindings = {};
  bool is_training = false;        // also its gradients and updates, with a loss that fits its outputs
  std::string precision = "f32";   // as CompileOptions have it
  std::string optimizer = "adam";  // as TrainingOptions have it
};

/// Measured rates of this machine: seconds of operators, what a launch costs, links. Immutable, cheap to copy.
class Profile {
 public:
  /// Reads a profile. @throws Error(M010, M051, M067).
  static Profile load(const std::string& path);
  /// Times every distinct node of `models`, and the link from the first device of `cluster` to the second when there is
  /// one. Devices of the host that have cores of their own are timed at the same time, since they share memory and
  /// caches in a step as well; of GPUs the first one is timed, products in TF32 too, and links within a GPU, between
  /// two, and to the host. `progress` is told how many nodes are done, of how many, and the operator of the next; by
  /// one thread at a time, not always the caller's.
  /// @throws Error(M046) naming a device of another kind than the first, Error(M070, M080), those of compile().
  static Profile measure(const Cluster& cluster, const std::vector<ProfileModel>& models,
                         const std::function<void(int64_t done, int64_t total, const std::string& op)>& progress = {});
  /// Writes the file; it appears whole or not at all. @throws Error(M011, M012).
  void save(const std::string& path) const;
  /// What was measured, for people and as the JSON of the file.
  std::string report_text() const;
  std::string json() const;

  /// Of mpc's own sources.
  struct Impl;
  explicit Profile(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  const Impl& impl() const { return *impl_; }

 private:
  std::shared_ptr<const Impl> impl_;  // shared: immutable, so that copies cost nothing
};

}  // namespace mpc::v1
