// Which products add themselves to the sum of a gradient.

#include "passes/fuse_accumulations.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/parse.h"
#include "compiler/ir/verify.h"

namespace {

using namespace mpc;

Cluster gpus(int count) {
  return uniform_cluster(*find_device_kind("h200"), count);
}

std::vector<OpKind> fused_ops(const std::string& body, const Cluster& cluster) {
  const Graph graph = parse_graph(R"ir(graph "g" local
input %x f32[4,8]
input %d f32[4,16]
parameter %w f32[8,16] from "w"
state %acc f32[8,16] = splat 0
%f f32[4,16] = MatMul(%x, %w) @f device 0
)ir" + body + "output f = %f\nupdate %acc -> %next\n");
  const Graph fused = fuse_accumulations(graph, cluster);
  verify(fused);
  std::vector<OpKind> ops;
  for (const Node& node : fused.nodes()) ops.push_back(node.op);
  return ops;
}

using Ops = std::vector<OpKind>;

}  // namespace

TEST_CASE("fuse_accumulations: a product that only its sum reads adds itself, on a CUDA device") {
  const std::string sum =
      "%next f32[8,16] per_step = GradAccumulate(%g, %acc) @sum phase weight_grad anchor @f device 0\n";
  const std::string product = "%g f32[8,16] = Gemm(%x, %d) {transA = 1} @g phase weight_grad anchor @f device 0\n";
  CHECK(fused_ops(product + sum, gpus(1)) == Ops{OpKind::MatMul, OpKind::GradAccumulate});
  CHECK(fused_ops(product + sum, uniform_cluster(*find_device_kind("cpu-avx512"), 1)) ==
        Ops{OpKind::MatMul, OpKind::Gemm, OpKind::GradAccumulate});
  // Others read the product; it has something added; it is none.
  CHECK(fused_ops(product + "output g = %g\n" + sum, gpus(1)).size() == 3);
  CHECK(
      fused_ops("%g f32[8,16] = Gemm(%x, %d, %w) {transA = 1} @g phase weight_grad anchor @f device 0\n" + sum, gpus(1))
          .size() == 3);
  CHECK(fused_ops("%g f32[8,16] = Tanh(%w) @g phase weight_grad anchor @f device 0\n" + sum, gpus(1)).size() == 3);
}
