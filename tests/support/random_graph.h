#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <string>

#include "compiler/base/weights.h"
#include "compiler/ir/graph.h"

namespace mpc::test {

/// How large a random graph is. A step adds a layer of up to three nodes.
struct RandomGraphOptions {
  int steps = 10;
  /// Steps that are left out; the others draw the same random numbers as before.
  std::set<int> dropped;
};

/// A random graph in stage imported over inputs of `rows` rows: linear layers (some share a weight), elementwise ops,
/// broadcasting, normalization, softmax, concat, split, reductions; branches, skips and joins. The same seed gives the
/// same structure for any `rows`. Its output "y" is f32 of shape (rows, 4).
Graph random_graph(uint64_t seed, int64_t rows, const RandomGraphOptions& options);

/// Drops steps one by one, for as long as the smaller graph still fails. @pre fails(options).
/// Source: A. Zeller, "Yesterday, my program worked. Today, it does not. Why?", ESEC/FSE 1999, with subsets of one.
/// O(steps^2) calls of `fails`.
RandomGraphOptions shrink(RandomGraphOptions options, const std::function<bool(const RandomGraphOptions&)>& fails);

/// Weights made from their name: uniform in [-0.5, 0.5).
class SeededWeights : public WeightSource {
 public:
  explicit SeededWeights(uint64_t seed) : seed_(seed) {}
  void read(const std::string& name, int64_t offset, std::span<std::byte> out) const override;
  DType dtype(const std::string&) const override { return DType::f32; }

 private:
  uint64_t seed_;
};

}  // namespace mpc::test
