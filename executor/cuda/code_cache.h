#pragma once

#include <optional>
#include <string>

// What the plugin compiled or chose, kept on disk between runs. A key says everything that the content follows from,
// versions included, and is stored beside it: an entry counts only when its whole key is the one asked for and its
// content is undamaged, so a cache can be wrong only by being empty.

namespace mpc::cuda {

class CodeCache {
 public:
  /// The folder of $MPC_CUDA_CACHE; else mpc/cuda in $XDG_CACHE_HOME or ~/.cache; "none", or no home: nothing is kept.
  CodeCache();
  explicit CodeCache(std::string folder) : folder_(std::move(folder)) {}

  std::optional<std::string> find(const std::string& key) const;
  /// A folder that cannot be written to keeps nothing; that is no error, since it only costs time. Processes may keep
  /// the same key at the same time.
  void keep(const std::string& key, const std::string& content) const;

 private:
  std::string path(const std::string& key) const;
  std::string folder_;  // empty: nothing is kept
};

}  // namespace mpc::cuda
