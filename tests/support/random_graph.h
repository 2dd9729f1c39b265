#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "compiler/base/weights.h"
#include "compiler/ir/graph.h"

namespace mpc::test {

/// How large a random graph is.
struct RandomGraphOptions {
  int nodes = 12;
};

/// A random graph in stage imported over inputs of `rows` rows: linear layers (some share a weight), elementwise ops, broadcasting, normalization,
/// softmax, concat, split, slices, reductions; branches, skips and joins. The same seed gives the same structure for any `rows`.
/// Its output "y" is f32 of shape (rows, n).
Graph random_graph(uint64_t seed, int64_t rows, const RandomGraphOptions& options);

/// Weights made from their name: uniform in [-0.5, 0.5).
class SeededWeights : public WeightSource {
 public:
  explicit SeededWeights(uint64_t seed) : seed_(seed) {}
  void read(const std::string& name, int64_t offset, std::span<std::byte> out) const override;

 private:
  uint64_t seed_;
};

}  // namespace mpc::test
