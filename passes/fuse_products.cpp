#include "passes/fuse_products.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "compiler/base/product_epilogue.h"
#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"
#include "passes/fusion_places.h"

namespace mpc {
namespace {

/// One fused product. Ids are of the graph that is fused.
struct ProductGroup {
  NodeId product;
  NodeId reshape;               // between product and the rest; often invalid
  NodeId cast;                  // to f32, before `whole` is added; often invalid
  NodeId last;                  // names the group
  std::vector<NodeId> members;  // ascending: product, reshape and what follows
  ValueId row;                  // these two may be invalid
  ValueId whole;
  std::optional<OpKind> activation;
  bool stands_first = false;  // where the product stood, instead of `last`
  NodeId place() const { return stands_first ? product : last; }
};

class Finder {
 public:
  Finder(const std::vector<const Graph*>& graphs, const FusionLimits& limits)
      : graphs_(graphs), graph_(*graphs.front()), places_(graph_, limits), users_(users_of(graph_)) {
    for (const NamedValue& output : graph_.outputs) results_.push_back(output.value);
    results_.push_back(graph_.loss);
    for (const Update& update : graph_.updates) results_.push_back(update.next);
    for (const ParameterGradient& gradient : graph_.gradients) results_.push_back(gradient.gradient);
    std::ranges::sort(results_);
  }

  std::vector<ProductGroup> run() {
    for (int i = 0; i < graph_.node_count(); ++i) {
      const NodeId id(i);
      if (is_product(id)) {
        group_at_[id] = static_cast<int>(groups_.size());
        groups_.push_back({id, {}, {}, id, {id}, {}, {}, {}, false});
      } else if (!try_to_reshape(id)) {
        try_to_take_in(id);
      }
    }
    std::erase_if(groups_, [](const ProductGroup& group) {
      return !group.row.is_valid() && !group.whole.is_valid() && !group.activation;
    });
    return std::move(groups_);
  }

 private:
  // A product that nothing was fused with, or a gradient that may have something added; of types that libraries take.
  bool is_product(NodeId id) const {
    const Node& node = graph_.node(id);
    const auto has_rank = [&](size_t i) { return graph_.value(node.inputs[i]).shape.rank() >= 2; };
    switch (node.op) {
      case OpKind::MatMul:
        if (node.inputs.size() > 2 || node.attributes.has("activation") || !has_rank(0) || !has_rank(1)) return false;
        break;
      case OpKind::Gemm:
        // What is added to a widened result is not of the type of the operands.
        if (node.inputs.size() > 3 || node.attributes.has("activation") || node.attributes.has("to")) return false;
        break;
      case OpKind::LayerNormalizationGrad:
      case OpKind::RMSNormalizationGrad:
        if (node.inputs.size() > 3) return false;
        break;
      default:
        return false;
    }
    const DType dtype = graph_.value(node.outputs[0]).dtype;
    return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
  }

  // May a row be added to it, or a function follow? (Not after the gradient of a normalization.)
  bool has_rows(const ProductGroup& group) const {
    const OpKind op = graph_.node(group.product).op;
    return op == OpKind::MatMul || op == OpKind::Gemm;
  }

  // The group whose result `value` is, where `reader` alone reads it, beside `other` (often invalid).
  ProductGroup* group_read_by(NodeId reader, ValueId value, ValueId other = {}) {
    if (!value.is_valid() || graph_.value(value).kind != ValueKind::node) return nullptr;
    if (users_[value.index()].size() != 1 || std::ranges::binary_search(results_, value)) return nullptr;
    const auto found = group_at_.find(graph_.value(value).producer);
    if (found == group_at_.end()) return nullptr;
    ProductGroup& group = groups_[static_cast<size_t>(found->second)];
    const bool may_join = group.last == graph_.value(value).producer && is_alike(group, reader) &&
                          (!cannot_wait(group, reader) || may_stand_first(group, other));
    return may_join ? &group : nullptr;
  }

  // Must the group, with `id` in it, stand where its product does?
  bool cannot_wait(const ProductGroup& group, NodeId id) const {
    return group.stands_first || keeps_more(group, id) || loses_home(group, id);
  }

  // Is all that the group is to read made before its product?
  bool may_stand_first(const ProductGroup& group, ValueId other) const {
    return std::ranges::all_of(std::array{group.row, group.whole, other}, [&](ValueId operand) {
      return !operand.is_valid() || graph_.value(operand).kind != ValueKind::node ||
             graph_.value(operand).producer < group.product;
    });
  }

  bool is_alike(const ProductGroup& group, NodeId id) const {
    const Node& product = graph_.node(group.product);
    const Node& node = graph_.node(id);
    if (product.phase != node.phase || product.rate != node.rate) return false;
    // What leads to weights alone stays where it is: sums of weights are made where the weight lives.
    if (product.phase != Phase::forward && product.phase != Phase::input_grad &&
        home_of(product.anchor) != home_of(node.anchor)) {
      return false;
    }
    return std::ranges::all_of(group.members, [&](NodeId member) { return places_.follows(member, id); });
  }

  // The forward node that `id` becomes a part of.
  NodeId home_of(NodeId id) const {
    const auto found = group_at_.find(id);
    return found == group_at_.end() ? id : groups_[static_cast<size_t>(found->second)].last;
  }

  // While nodes stand between the product and `id`, operands of the group wait instead of its result: are they larger?
  // An operand that such a node reads is there anyway until then.
  bool keeps_more(const ProductGroup& group, NodeId id) const {
    const NodeId previous = node_before(id);
    if (group.last >= previous) return false;
    int64_t change = -graph_.value(graph_.node(group.last).outputs[0]).bytes();
    std::vector<ValueId> operands = graph_.node(group.product).inputs;
    operands.insert(operands.end(), {group.row, group.whole});
    std::ranges::sort(operands);
    const auto repeated = std::ranges::unique(operands);
    operands.erase(repeated.begin(), repeated.end());
    for (const ValueId operand : operands) {
      if (!operand.is_valid()) continue;
      const Value& value = graph_.value(operand);
      const bool is_always_there =
          value.kind == ValueKind::parameter || value.kind == ValueKind::state || value.kind == ValueKind::constant;
      if (!is_always_there && users_[operand.index()].back() < previous) change += value.bytes();
    }
    return change > 0;
  }

  // The node that runs before `id`: what runs once per step (a weight that is rounded) does not stand between those of
  // a micro-batch.
  NodeId node_before(NodeId id) const {
    NodeId before = id;
    while (before.index() > 0) {
      before = NodeId(static_cast<int>(before.index()) - 1);
      if (graph_.node(before).rate == graph_.node(id).rate) break;
    }
    return before;
  }

  // A parameter lives where its first reader is: would another one be that, if the group stood where `id` does?
  bool loses_home(const ProductGroup& group, NodeId id) const {
    std::vector<ValueId> operands = graph_.node(group.product).inputs;
    operands.insert(operands.end(), {group.row, group.whole});
    return std::ranges::any_of(operands, [&](ValueId operand) {
      if (!operand.is_valid() || graph_.value(operand).kind != ValueKind::parameter) return false;
      const auto& readers = users_[operand.index()];
      const auto is_other = [&](NodeId reader) {
        return std::ranges::find(group.members, reader) == group.members.end();
      };
      const auto other = std::ranges::find_if(readers, is_other);
      return !is_other(readers.front()) && other != readers.end() && *other < id;
    });
  }

  // @pre cannot_wait implies may_stand_first.
  void join(ProductGroup& group, NodeId id) {
    group.stands_first = cannot_wait(group, id);
    group_at_[id] = group_at_.at(group.product);
    group.members.push_back(id);
    group.last = id;
  }

  bool has_epilogue(const ProductGroup& group) const {
    return group.row.is_valid() || group.whole.is_valid() || group.activation.has_value();
  }

  Shape shape_of(const Graph& graph, ValueId value) const { return graph.value(value).shape; }

  bool try_to_reshape(NodeId id) {
    const Node& node = graph_.node(id);
    if (node.op != OpKind::Reshape) return false;
    ProductGroup* group = group_read_by(id, node.inputs[0]);
    if (group == nullptr || group->reshape.is_valid() || has_epilogue(*group)) return true;
    const bool keeps_columns = std::ranges::all_of(graphs_, [&](const Graph* graph) {
      const Shape& from = shape_of(*graph, node.inputs[0]);
      const Shape& to = shape_of(*graph, node.outputs[0]);
      return to.rank() > 0 && from[from.rank() - 1] == to[to.rank() - 1];
    });
    if (!keeps_columns) return true;
    group->reshape = id;
    join(*group, id);
    return true;
  }

  void try_to_take_in(NodeId id) {
    const Node& node = graph_.node(id);
    if (node.op == OpKind::Relu || (node.op == OpKind::Gelu && node.attributes.text("approximate") == "tanh")) {
      ProductGroup* group = group_read_by(id, node.inputs[0]);
      if (group == nullptr || group->activation || group->cast.is_valid() || !has_rows(*group)) return;
      group->activation = node.op;
      return join(*group, id);
    }
    if (is_gelu_gradient(node)) return take_in_gelu_gradient(id);
    if (node.op != OpKind::Add) return;
    ProductGroup* first = group_added_by(id, node.inputs[0], node.inputs[1]);
    ProductGroup* second = group_added_by(id, node.inputs[1], node.inputs[0]);
    // Of two products the later one: what it computes is never stored.
    const bool is_second = first == nullptr || (second != nullptr && first->product < second->product);
    const auto try_add = [&](ProductGroup* group, size_t operand) {
      const ValueId own = node.inputs[operand];
      const bool is_cast = group != nullptr && before_cast(id, own) != own;
      const ValueId other = node.inputs[1 - operand];
      return is_cast ? add_wide(group, id, graph_.value(own).producer, other) : add(group, id, other);
    };
    if (!try_add(is_second ? second : first, is_second ? 1 : 0)) try_add(is_second ? first : second, is_second ? 0 : 1);
  }

  static bool is_gelu_gradient(const Node& node) {
    return node.op == OpKind::UnaryGrad && node.attributes.text("function") == op_name(OpKind::Gelu) &&
           node.attributes.text("approximate") == "tanh";
  }

  // Of a product that is the gradient of Gelu's result, and nothing more.
  void take_in_gelu_gradient(NodeId id) {
    const Node& node = graph_.node(id);
    ProductGroup* group = group_read_by(id, node.inputs[0], node.inputs[1]);
    if (group == nullptr || has_epilogue(*group) || group->cast.is_valid() || !has_rows(*group)) return;
    if (graph_.node(group->product).inputs.size() > 2) return;
    group->activation = node.op;
    join(*group, id);
    group->whole = node.inputs[1];
  }

  // The group that makes an operand of the addition `id`, or what a Cast makes that of.
  ProductGroup* group_added_by(NodeId id, ValueId operand, ValueId other) {
    const ValueId before = before_cast(id, operand);
    ProductGroup* group = group_read_by(before == operand ? id : graph_.value(operand).producer, before, other);
    const bool is_kept = before != operand && group != nullptr && graph_.value(operand).producer < node_before(id);
    return is_kept && cannot_wait(*group, id) && !may_stand_first(*group, other) ? nullptr : group;
  }

  // What `value` is in 16 bits, if it is a Cast of that to f32 that `reader` alone reads, on the same device.
  ValueId before_cast(NodeId reader, ValueId value) const {
    if (!value.is_valid() || graph_.value(value).kind != ValueKind::node) return value;
    const NodeId id = graph_.value(value).producer;
    const Node& cast = graph_.node(id);
    if (cast.op != OpKind::Cast || cast.inputs.size() != 1 || graph_.value(value).dtype != DType::f32) return value;
    if (users_[value.index()].size() != 1 || std::ranges::binary_search(results_, value)) return value;
    const DType from = graph_.value(cast.inputs[0]).dtype;
    const Node& node = graph_.node(reader);
    const bool is_alike = cast.phase == node.phase && cast.rate == node.rate && places_.follows(id, reader);
    return is_alike && (from == DType::bf16 || from == DType::f16) ? cast.inputs[0] : value;
  }

  // What a row in 16 bits was rounded from; invalid where it was not.
  ValueId unrounded(ValueId row) const {
    if (graph_.value(row).kind != ValueKind::node) return {};
    const Node& cast = graph_.node(graph_.value(row).producer);
    const bool is_rounding =
        cast.op == OpKind::Cast && cast.inputs.size() == 1 && graph_.value(cast.inputs[0]).dtype == DType::f32;
    return is_rounding ? cast.inputs[0] : ValueId{};
  }

  // As add, where the product is cast to f32 before. The row is then read in f32, too: libraries add it to that.
  bool add_wide(ProductGroup* group, NodeId id, NodeId cast, ValueId other) {
    if (group == nullptr || group->activation || group->whole.is_valid() || !has_rows(*group)) return false;
    if (graph_.node(group->product).inputs.size() > 2) return false;
    const ValueId row = group->row.is_valid() ? unrounded(group->row) : ValueId{};
    if (group->row.is_valid() && !row.is_valid()) return false;
    const ValueId result = graph_.node(id).outputs[0];
    const bool is_whole = std::ranges::all_of(graphs_, [&](const Graph* graph) {
      return shape_of(*graph, graph_.node(cast).outputs[0]) == shape_of(*graph, result) &&
             shape_of(*graph, other) == shape_of(*graph, result);
    });
    if (!is_whole || graph_.value(other).dtype != DType::f32) return false;
    group->cast = cast;
    join(*group, cast);
    join(*group, id);
    group->row = row;
    group->whole = other;
    return true;
  }

  // Does `group` take in the addition of `other`, which is node `id`?
  bool add(ProductGroup* group, NodeId id, ValueId other) {
    if (group == nullptr || group->activation || group->whole.is_valid()) return false;
    const ValueId result = graph_.node(id).outputs[0];
    const ValueId before = graph_.node(group->last).outputs[0];
    if (graph_.value(other).dtype != graph_.value(result).dtype) return false;
    const auto everywhere = [&](auto&& holds) {
      return std::ranges::all_of(graphs_, [&](const Graph* graph) {
        return shape_of(*graph, before) == shape_of(*graph, result) &&
               holds(shape_of(*graph, other), shape_of(*graph, result));
      });
    };
    const Node& product = graph_.node(group->product);
    const bool may_have_row = has_rows(*group) && !group->row.is_valid() && product.inputs.size() == 2;
    const bool is_row =
        may_have_row && everywhere([](const Shape& shape, const Shape& y) { return shape == Shape{y[y.rank() - 1]}; });
    if (!is_row && !everywhere([](const Shape& shape, const Shape& y) { return shape == y; })) return false;
    join(*group, id);
    (is_row ? group->row : group->whole) = other;
    return true;
  }

  const std::vector<const Graph*>& graphs_;
  const Graph& graph_;
  FusionPlaces places_;
  std::vector<std::vector<NodeId>> users_;
  std::vector<ValueId> results_;  // of the graph, sorted
  std::vector<ProductGroup> groups_;
  std::map<NodeId, int> group_at_;  // of every member
};

/// Writes one group.
class GroupWriter {
 public:
  GroupWriter(Rewriter& rewriter, const ProductGroup& group)
      : source_(rewriter.source()), rewriter_(rewriter), group_(group), product_(source_.node(group.product)) {}

  void write() {
    const ValueId old_result = source_.node(group_.last).outputs[0];
    const ValueId old_product = product_.outputs[0];
    const bool is_reshaped = group_.reshape.is_valid();
    const Shape shape = source_.value(old_product).shape;
    std::vector<ValueId> inputs = rewriter_.at(product_.inputs);
    if (group_.row.is_valid() || group_.whole.is_valid()) {
      inputs.resize(std::max<size_t>(inputs.size(), 3));  // an absent C of a Gemm, or no row
      if (group_.row.is_valid()) inputs[2] = rewriter_.at(group_.row);
    }
    if (group_.whole.is_valid()) {
      const ValueId whole = rewriter_.at(group_.whole);
      inputs.push_back(is_reshaped ? reshaped(whole, shape, source_.node(group_.last).name + "/whole", "") : whole);
    }
    Attributes attributes = product_.attributes;
    // A product that was packed has several.
    std::vector<std::string> origins =
        attributes.has("origins") ? attributes.texts("origins") : std::vector<std::string>{product_.origin};
    for (const NodeId member : group_.members) {
      const bool is_named = member != group_.product && member != group_.reshape && member != group_.cast;
      if (is_named) origins.push_back(source_.node(member).origin);
    }
    const bool is_gradient = product_.op != OpKind::MatMul && product_.op != OpKind::Gemm;
    if (!is_gradient) attributes.set("origins", std::move(origins));
    if (group_.cast.is_valid()) attributes.set("sum_to", std::string(dtype_name(DType::f32)));
    if (group_.activation) {
      const bool is_gradient_of_gelu = group_.activation == OpKind::UnaryGrad;
      attributes.set("activation", std::string(is_gradient_of_gelu ? kGeluGradient : op_name(*group_.activation)));
    }
    NodeInfo info = info_of(source_.node(group_.last).name, source_.value(is_reshaped ? old_product : old_result).name);
    const NodeId made =
        append(rewriter_.graph(), product_.op, std::move(inputs), std::move(attributes), std::move(info));
    ValueId result = finished(made);
    if (is_reshaped) {
      result = reshaped(result, source_.value(old_result).shape, source_.node(group_.reshape).name,
                        source_.value(old_result).name);
    }
    rewriter_.map(old_result, result);
    for (const NodeId member : group_.members) rewriter_.map_node(member, made);
  }

 private:
  NodeInfo info_of(std::string name, std::string value_name) const {
    NodeInfo info;
    info.name = std::move(name);
    info.origin = source_.node(group_.last).origin;
    info.phase = product_.phase;
    info.anchor = product_.anchor.is_valid() ? rewriter_.node_at(product_.anchor) : product_.anchor;
    if (!value_name.empty()) info.output_names = {std::move(value_name)};
    return info;
  }

  ValueId reshaped(ValueId value, const Shape& to, std::string name, std::string value_name) {
    const NodeId made = append(rewriter_.graph(), OpKind::Reshape, {value}, {{"shape", to.to_vector()}},
                               info_of(std::move(name), std::move(value_name)));
    return finished(made);
  }

  // Everything the group makes has the product's rate.
  ValueId finished(NodeId made) {
    const ValueId result = rewriter_.graph().node(made).outputs[0];
    rewriter_.graph().node(made).rate = product_.rate;
    rewriter_.graph().value(result).rate = source_.value(product_.outputs[0]).rate;
    return result;
  }

  const Graph& source_;
  Rewriter& rewriter_;
  const ProductGroup& group_;
  const Node& product_;
};

Graph write_groups(const Graph& graph, const std::vector<ProductGroup>& groups) {
  std::map<NodeId, const ProductGroup*> group_at;  // of every member
  for (const ProductGroup& group : groups) {
    for (const NodeId member : group.members) group_at[member] = &group;
  }
  Rewriter rewriter(graph);
  for (int i = 0; i < graph.node_count(); ++i) {
    const NodeId id(i);
    const auto found = group_at.find(id);
    if (found == group_at.end()) {
      rewriter.copy(id);
    } else if (found->second->place() == id) {
      GroupWriter(rewriter, *found->second).write();
    }
  }
  return rewriter.finish(graph.stage);
}

}  // namespace

std::vector<Graph> fuse_products(const std::vector<const Graph*>& graphs, const FusionLimits& limits) {
  const std::vector<ProductGroup> groups = Finder(graphs, limits).run();
  std::vector<Graph> fused;
  // A row that is read in f32 leaves a Cast that nobody reads.
  for (const Graph* graph : graphs) fused.push_back(remove_dead_nodes(write_groups(*graph, groups)));
  return fused;
}

}  // namespace mpc
