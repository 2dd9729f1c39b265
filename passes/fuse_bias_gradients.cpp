#include "passes/fuse_bias_gradients.h"

#include <algorithm>
#include <map>
#include <optional>

#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

/// A Gemm and the sums that become its second result. Ids are of the graph that is fused.
struct Pair {
  NodeId product;
  NodeId sum;
  std::vector<NodeId> chain;  // what is made of the sums before the product stands; each reads the one before
  NodeId last() const { return std::max(product, sum); }
  std::vector<NodeId> members() const {
    std::vector<NodeId> all = {product, sum};
    all.insert(all.end(), chain.begin(), chain.end());
    return all;
  }
};

class Finder {
 public:
  explicit Finder(const Graph& graph) : graph_(graph), users_(users_of(graph)) {}

  std::vector<Pair> run() {
    for (int i = 0; i < graph_.node_count(); ++i) {
      const Node& node = graph_.node(NodeId(i));
      if (is_weight_product(node)) products_[source_of(node.inputs[1])].push_back(NodeId(i));
    }
    std::vector<Pair> pairs;
    for (int i = 0; i < graph_.node_count(); ++i) {
      if (const std::optional<Pair> pair = pair_of(NodeId(i))) pairs.push_back(*pair);
    }
    return pairs;
  }

 private:
  // Whose bytes a value shares.
  ValueId source_of(ValueId value) const {
    while (graph_.value(value).kind == ValueKind::node) {
      const Node& producer = graph_.node(graph_.value(value).producer);
      if (producer.op != OpKind::Reshape) break;
      value = producer.inputs[0];
    }
    return value;
  }

  static bool is_weight_product(const Node& node) {
    if (node.op != OpKind::Gemm || node.phase != Phase::weight_grad) return false;
    const bool is_plain = node.inputs.size() == 2 && node.outputs.size() == 1 && !node.attributes.has("activation");
    return is_plain && !(node.attributes.has("transB") && node.attributes.flag("transB"));
  }

  std::optional<Pair> pair_of(NodeId id) {
    const Node& sum = graph_.node(id);
    if (sum.op != OpKind::ReduceSum || sum.phase != Phase::weight_grad || !sums_rows(sum)) return std::nullopt;
    const auto found = products_.find(source_of(sum.inputs[0]));
    if (found == products_.end()) return std::nullopt;
    const int64_t columns = graph_.value(sum.outputs[0]).shape.elements();
    for (NodeId& product : found->second) {
      if (!product.is_valid()) continue;  // has its sums
      const Node& node = graph_.node(product);
      const bool is_alike = node.anchor == sum.anchor && node.rate == sum.rate &&
                            graph_.value(node.outputs[0]).dtype == graph_.value(sum.outputs[0]).dtype;
      if (!is_alike || graph_.value(node.inputs[1]).shape[1] != columns) continue;
      Pair pair{product, id, {}};
      std::vector<ValueId> ends = follow(pair);
      ends.push_back(node.outputs[0]);
      const bool may_wait = std::ranges::none_of(ends, [&](ValueId end) { return is_read_before(end, pair.last()); });
      if (!may_wait) continue;
      product = {};
      return pair;
    }
    return std::nullopt;
  }

  // Over all dimensions but the last?
  bool sums_rows(const Node& sum) const {
    const Shape& shape = graph_.value(sum.inputs[0]).shape;
    const std::vector<int64_t>& axes = sum.attributes.integers("axes");
    return shape.rank() >= 2 && static_cast<int>(axes.size()) == shape.rank() - 1 &&
           std::ranges::find(axes, shape.rank() - 1) == axes.end();
  }

  // Finds the chain. @return what its last node makes.
  std::vector<ValueId> follow(Pair& pair) const {
    ValueId value = graph_.node(pair.sum).outputs[0];
    while (users_[value.index()].size() == 1) {
      const NodeId user = users_[value.index()].front();
      const Node& node = graph_.node(user);
      // Beside the value before, a link reads a state at most, which is always there.
      const bool is_link = node.op == OpKind::Reshape || node.op == OpKind::Cast || node.op == OpKind::GradAccumulate ||
                           node.op == OpKind::Split;
      if (!is_link || user > pair.last()) break;
      pair.chain.push_back(user);
      if (node.op == OpKind::Split) return node.outputs;  // of the rows of a packed weight
      value = node.outputs[0];
    }
    return {value};
  }

  bool is_read_before(ValueId value, NodeId node) const {
    if (!value.is_valid()) return false;
    const auto& users = users_[value.index()];
    return !users.empty() && users.front() < node;
  }

  const Graph& graph_;
  std::vector<std::vector<NodeId>> users_;
  std::map<ValueId, std::vector<NodeId>> products_;  // by what their second operand shares its bytes with
};

void write_pair(Rewriter& rewriter, const Pair& pair) {
  const Graph& source = rewriter.source();
  const Node& product = source.node(pair.product);
  const Node& sum = source.node(pair.sum);
  const Value& sums = source.value(sum.outputs[0]);
  const bool is_row = sums.shape.rank() == 1;
  NodeInfo info;
  info.name = product.name;
  info.origin = product.origin;
  info.phase = product.phase;
  info.anchor = rewriter.node_at(product.anchor);
  info.output_names = {source.value(product.outputs[0]).name, is_row ? sums.name : sums.name + "/row"};
  Graph& graph = rewriter.graph();
  const auto add = [&](OpKind op, std::vector<ValueId> inputs, const Attributes& attributes) {
    const NodeId made = append(graph, op, std::move(inputs), attributes, info);
    graph.node(made).rate = product.rate;
    for (const ValueId output : graph.node(made).outputs) graph.value(output).rate = sums.rate;
    return made;
  };
  const NodeId made = add(OpKind::Gemm, rewriter.at(product.inputs), product.attributes);
  ValueId row = graph.node(made).outputs[1];
  rewriter.map(product.outputs[0], graph.node(made).outputs[0]);
  if (!is_row) {
    info.name = sum.name;
    info.output_names = {sums.name};
    row = graph.node(add(OpKind::Reshape, {row}, {{"shape", sums.shape.to_vector()}})).outputs[0];
  }
  rewriter.map(sum.outputs[0], row);
  for (const NodeId node : {pair.product, pair.sum}) rewriter.map_node(node, made);
  for (const NodeId node : pair.chain) rewriter.copy(node);
}

}  // namespace

std::vector<Graph> fuse_bias_gradients(const std::vector<const Graph*>& graphs) {
  const std::vector<Pair> pairs = Finder(*graphs.front()).run();
  std::map<NodeId, const Pair*> pair_at;  // of every member
  for (const Pair& pair : pairs) {
    for (const NodeId node : pair.members()) pair_at[node] = &pair;
  }
  std::vector<Graph> fused;
  for (const Graph* graph : graphs) {
    Rewriter rewriter(*graph);
    for (int i = 0; i < graph->node_count(); ++i) {
      const auto found = pair_at.find(NodeId(i));
      if (found == pair_at.end()) {
        rewriter.copy(NodeId(i));
      } else if (found->second->last() == NodeId(i)) {
        write_pair(rewriter, *found->second);
      }
    }
    fused.push_back(rewriter.finish(graph->stage));
  }
  return fused;
}

}  // namespace mpc
