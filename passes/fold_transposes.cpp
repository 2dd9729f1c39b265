#include "passes/fold_transposes.h"

#include <algorithm>
#include <set>
#include <utility>

#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"
#include "passes/fusion_places.h"

namespace mpc {
namespace {

bool is_product(const Node& node) {
  return node.op == OpKind::MatMul || node.op == OpKind::Gemm;
}

bool swaps_last_two(const Node& node) {
  if (node.op != OpKind::Transpose) return false;
  std::vector<int64_t> perm = node.attributes.integers("perm");
  if (perm.size() < 2) return false;
  std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
  for (size_t i = 0; i < perm.size(); ++i) {
    if (perm[i] != static_cast<int64_t>(i)) return false;
  }
  return true;
}

bool is_set(const Attributes& attributes, std::string_view name) {
  return attributes.has(name) && attributes.flag(name);
}

/// MatMul has the flags where they are set, Gemm always.
void set_flag(Node& node, std::string_view name, bool value) {
  if (node.op == OpKind::MatMul && !value) return node.attributes.erase(name);
  node.attributes.set(name, int64_t{value});
}

class Folder {
 public:
  Folder(const Graph& graph, const FusionLimits& limits)
      : graph_(graph), places_(graph, limits), users_(users_of(graph)) {
    for (const NamedValue& output : graph.outputs) results_.insert(output.value);
    results_.insert(graph.loss);
    for (const Update& update : graph.updates) results_.insert(update.next);
    for (const ParameterGradient& gradient : graph.gradients) results_.insert(gradient.gradient);
  }

  /// Transposes that their readers take in.
  std::vector<bool> find_read() const {
    std::vector<bool> found(static_cast<size_t>(graph_.node_count()), false);
    for (int i = 0; i < graph_.node_count(); ++i) {
      const Node& node = graph_.node(NodeId(i));
      if (!swaps_last_two(node) || results_.contains(node.outputs[0]) || is_home(NodeId(i))) continue;
      const auto& users = users_[node.outputs[0].index()];
      found[static_cast<size_t>(i)] = !users.empty() && std::ranges::all_of(users, [&](NodeId user) {
        return reads_as_matrix(graph_.node(user), node.outputs[0]) && places_.follows(NodeId(i), user);
      });
    }
    return found;
  }

  /// Transposes that take in the product they read.
  std::vector<bool> find_made(const std::vector<bool>& is_read) const {
    std::vector<bool> found(static_cast<size_t>(graph_.node_count()), false);
    for (int i = 0; i < graph_.node_count(); ++i) {
      const Node& node = graph_.node(NodeId(i));
      if (!swaps_last_two(node) || is_read[static_cast<size_t>(i)]) continue;
      const ValueId from = node.inputs[0];
      if (graph_.value(from).kind != ValueKind::node || users_[from.index()].size() != 1 || results_.contains(from))
        continue;
      const NodeId producer = graph_.value(from).producer;
      const Node& product = graph_.node(producer);
      if (!is_product(product) || product.inputs.size() > 2 || product.attributes.has("activation")) continue;
      // Weight gradients stay with the forward node they are of.
      const bool is_alike = product.phase == node.phase && product.rate == node.rate;
      const bool may_move =
          node.phase == Phase::forward || node.phase == Phase::input_grad || product.anchor == node.anchor;
      if (!is_alike || !may_move) continue;
      const auto is_matrix = [&](ValueId operand) { return graph_.value(operand).shape.rank() >= 2; };
      found[static_cast<size_t>(i)] =
          is_matrix(product.inputs[0]) && is_matrix(product.inputs[1]) && places_.follows(producer, NodeId(i));
    }
    return found;
  }

 private:
  // A parameter lives where its first reader is: that one stays, unless all that there is follows it.
  bool is_home(NodeId id) const {
    const ValueId from = graph_.node(id).inputs[0];
    const auto& readers = users_[from.index()];
    const auto is_forward = [&](NodeId reader) { return graph_.node(reader).phase == Phase::forward; };
    return graph_.value(from).kind == ValueKind::parameter && readers.front() == id &&
           std::ranges::count_if(readers, is_forward) > 1;
  }

  // A vector is no matrix that could be transposed, and only the first two operands of a product are.
  static bool reads_as_matrix(const Node& user, ValueId value) {
    if (!is_product(user)) return false;
    const auto count = std::ranges::count(user.inputs, value);
    return count == (user.inputs[0] == value ? 1 : 0) + (user.inputs[1] == value ? 1 : 0);
  }

  const Graph& graph_;
  FusionPlaces places_;
  std::vector<std::vector<NodeId>> users_;
  std::set<ValueId> results_;
};

class Writer {
 public:
  Writer(const Graph& graph, const std::vector<bool>& is_read, const std::vector<bool>& is_made)
      : graph_(graph), is_read_(is_read), is_made_(is_made), rewriter_(graph) {
    for (int i = 0; i < graph.node_count(); ++i) {
      if (is_made[static_cast<size_t>(i)]) is_swapped_.insert(graph.value(graph.node(NodeId(i)).inputs[0]).producer);
    }
  }

  Graph run() {
    for (int i = 0; i < graph_.node_count(); ++i) {
      const NodeId id(i);
      const Node& node = graph_.node(id);
      if (is_read_[static_cast<size_t>(i)]) continue;
      if (is_made_[static_cast<size_t>(i)]) {
        write(node, graph_.value(node.inputs[0]).producer);
        rewriter_.map_node(id, rewriter_.graph().value(rewriter_.at(node.outputs[0])).producer);
      } else if (is_product(node) && !is_swapped_.contains(id) && reads_transpose(node)) {
        write(node, id);
      } else if (!is_swapped_.contains(id)) {
        rewriter_.copy(id);
      }
    }
    return rewriter_.finish(graph_.stage);
  }

 private:
  const Node* transpose_at(ValueId value) const {
    if (!value.is_valid() || graph_.value(value).kind != ValueKind::node) return nullptr;
    const NodeId producer = graph_.value(value).producer;
    return is_read_[producer.index()] ? &graph_.node(producer) : nullptr;
  }
  bool reads_transpose(const Node& node) const {
    return transpose_at(node.inputs[0]) != nullptr || transpose_at(node.inputs[1]) != nullptr;
  }

  // Writes product `id` as the node `last`: itself, or the Transpose that reads it.
  void write(const Node& last, NodeId id) {
    Node product = graph_.node(id);
    std::vector<NodeId> taken;
    bool trans[] = {is_set(product.attributes, "transA"), is_set(product.attributes, "transB")};
    for (size_t k = 0; k < 2; ++k) {
      const Node* transpose = transpose_at(product.inputs[k]);
      if (transpose == nullptr) continue;
      taken.push_back(graph_.value(product.inputs[k]).producer);
      product.inputs[k] = transpose->inputs[0];
      trans[k] = !trans[k];
    }
    if (last.op == OpKind::Transpose) {  // (op(A) op(B))' = op(B)' op(A)'
      std::swap(product.inputs[0], product.inputs[1]);
      std::swap(trans[0], trans[1]);
      trans[0] = !trans[0];
      trans[1] = !trans[1];
    }
    set_flag(product, "transA", trans[0]);
    set_flag(product, "transB", trans[1]);
    NodeInfo info;
    info.name = last.name;
    info.origin = last.origin;
    info.phase = product.phase;
    info.anchor = product.anchor.is_valid() ? rewriter_.node_at(product.anchor) : product.anchor;
    info.output_names = {graph_.value(last.outputs[0]).name};
    Graph& graph = rewriter_.graph();
    const NodeId made = append(graph, product.op, rewriter_.at(product.inputs), product.attributes, std::move(info));
    const ValueId result = graph.node(made).outputs[0];
    graph.node(made).rate = product.rate;
    graph.value(result).rate = graph_.value(last.outputs[0]).rate;
    rewriter_.map(last.outputs[0], result);
    rewriter_.map_node(id, made);
    // What belonged to a Transpose belongs to its first reader.
    for (const NodeId transpose : taken) {
      if (!rewriter_.node_at(transpose).is_valid()) rewriter_.map_node(transpose, made);
    }
  }

  const Graph& graph_;
  const std::vector<bool>& is_read_;
  const std::vector<bool>& is_made_;
  std::set<NodeId> is_swapped_;  // products that their Transpose takes in
  Rewriter rewriter_;
};

}  // namespace

std::vector<Graph> fold_transposes(const std::vector<const Graph*>& graphs, const FusionLimits& limits) {
  const Folder folder(*graphs.front(), limits);
  const std::vector<bool> is_read = folder.find_read();
  const std::vector<bool> is_made = folder.find_made(is_read);
  std::vector<Graph> folded;
  for (const Graph* graph : graphs) folded.push_back(Writer(*graph, is_read, is_made).run());
  return folded;
}

}  // namespace mpc
