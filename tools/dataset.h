#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mpc/mpc.h"

namespace mpc::tools {

/// What the user gave: `--data NAME=FILE` by input name, and `--labels FILE`.
struct DataFiles {
  std::map<std::string, Tensor> inputs = {};
  std::optional<Tensor> labels = {};
};

/// The rows a model is trained on: per plan input a tensor whose dimension 0 counts them.
class Dataset {
 public:
  /// @throws Error(M004) for what is missing, does not fit or differs in its number of rows.
  static Dataset from_files(const DataFiles& files, const Plan& plan);
  /// Deterministic made-up rows that can be learnt: with class labels, each row is the pattern of its class plus noise.
  static Dataset synthetic(const Plan& plan, int64_t rows, uint64_t seed);

  int64_t rows() const { return rows_; }
  /// Binds the given rows to the session's inputs.
  void bind(std::span<const int64_t> rows, Session& session) const;

 private:
  std::map<std::string, Tensor> batched_;  // by input
  std::map<std::string, Tensor> whole_;    // inputs without a batch dimension: the same for every step
  int64_t rows_ = 0;
};

}  // namespace mpc::tools
