#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "mpc/mpc.h"

namespace mpc::tools {

/// The rows a model is trained on: per plan input a tensor whose dimension 0 counts them.
class Dataset {
 public:
  /// From files: `--data NAME=FILE` (or only FILE for a model with one input) and `--labels FILE`.
  /// @throws Error(M004) for what is missing, does not fit or differs in its number of rows.
  static Dataset from_files(const std::map<std::string, Tensor>& files, const Plan& plan);
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

/// The name of the input that the loss reads its labels from.
inline constexpr const char* kLabels = "labels";

}  // namespace mpc::tools
