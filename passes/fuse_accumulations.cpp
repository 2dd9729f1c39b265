#include "passes/fuse_accumulations.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

class Finder {
 public:
  Finder(const Graph& graph, const Cluster& cluster) : graph_(graph), cluster_(cluster), users_(users_of(graph)) {
    for (const NamedValue& output : graph.outputs) results_.insert(output.value);
    for (const ParameterGradient& gradient : graph.gradients) results_.insert(gradient.gradient);
  }

  /// The accumulation of each product, by the product.
  std::map<NodeId, NodeId> run() const {
    std::map<NodeId, NodeId> found;
    for (int i = 0; i < graph_.node_count(); ++i) {
      const NodeId id(i);
      if (graph_.node(id).op == OpKind::GradAccumulate && is_of_product(graph_.node(id)))
        found.emplace(graph_.value(graph_.node(id).inputs[0]).producer, id);
    }
    return found;
  }

 private:
  bool is_of_product(const Node& sum) const {
    const ValueId gradient = sum.inputs[0];
    if (sum.inputs.size() != 2 || graph_.value(gradient).kind != ValueKind::node) return false;
    if (users_[gradient.index()].size() != 1 || results_.contains(gradient)) return false;
    const Node& product = graph_.node(graph_.value(gradient).producer);
    const bool is_plain =
        product.op == OpKind::Gemm && product.inputs.size() == 2 && !product.attributes.has("activation");
    const bool is_alike = product.device == sum.device && product.phase == sum.phase && product.rate == sum.rate;
    const bool is_own = is_plain && product.outputs[0] == gradient;
    return is_own && is_alike && graph_.value(gradient).dtype == DType::f32 &&
           cluster_.device(sum.device).backend == "cuda";
  }

  const Graph& graph_;
  const Cluster& cluster_;
  std::vector<std::vector<NodeId>> users_;
  std::set<ValueId> results_;
};

void write_sum(Rewriter& rewriter, NodeId product_id, NodeId sum_id) {
  const Graph& source = rewriter.source();
  const Node& product = source.node(product_id);
  const Node& sum = source.node(sum_id);
  std::vector<ValueId> results = {sum.outputs[0]};
  if (product.outputs.size() > 1) results.push_back(product.outputs[1]);
  NodeInfo info;
  info.name = sum.name;
  info.origin = product.origin;
  info.phase = sum.phase;
  info.anchor = rewriter.node_at(sum.anchor);
  for (const ValueId result : results) info.output_names.push_back(result.is_valid() ? source.value(result).name : "");
  Attributes attributes;
  for (const char* name : {"alpha", "transA", "transB"}) {
    if (const Attribute* given = product.attributes.find(name)) attributes.set(name, *given);
  }
  const ValueId factors[] = {rewriter.at(product.inputs[0]), rewriter.at(product.inputs[1])};
  Graph& graph = rewriter.graph();
  const NodeId made = append(graph, OpKind::GradAccumulate, {factors[0], rewriter.at(sum.inputs[1]), factors[1]},
                             std::move(attributes), std::move(info));
  graph.node(made).device = sum.device;
  graph.node(made).rate = sum.rate;
  for (size_t i = 0; i < results.size(); ++i) {
    if (!results[i].is_valid()) continue;
    const ValueId result = graph.node(made).outputs[i];
    graph.value(result).rate = source.value(results[i]).rate;
    rewriter.map(results[i], result);
  }
  rewriter.map_node(product_id, made);
  rewriter.map_node(sum_id, made);
}

}  // namespace

Graph fuse_accumulations(Graph graph, const Cluster& cluster) {
  const std::map<NodeId, NodeId> sums = Finder(graph, cluster).run();
  if (sums.empty()) return graph;
  std::set<NodeId> fused;
  for (const auto& [product, sum] : sums) fused.insert(sum);
  Rewriter rewriter(graph);
  for (int i = 0; i < graph.node_count(); ++i) {
    const NodeId id(i);
    // In the place of the product: the sum before it is a state, which is always there.
    if (const auto found = sums.find(id); found != sums.end()) {
      write_sum(rewriter, id, found->second);
    } else if (!fused.contains(id)) {
      rewriter.copy(id);
    }
  }
  return rewriter.finish(graph.stage);
}

}  // namespace mpc
