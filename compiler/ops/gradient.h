#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "compiler/ir/graph.h"
#include "compiler/ops/op_def.h"

namespace mpc {

/// The choices of gradient rules that depend on shapes (is a Reshape needed, which dimensions were broadcast), in the
/// order they are made. Recorded for the graph of a full micro-batch and replayed for that of the last, smaller one:
/// both then get the same nodes, even where a single row looks like a broadcast dimension.
struct ShapeChoices {
  std::vector<std::vector<int64_t>> made;
  size_t next = 0;
  bool is_replay = false;
};

/// What a gradient rule sees and writes: given d(loss)/d(outputs) of one forward node, it appends nodes that compute
/// d(loss)/d(input i) for the inputs that need it. Input and weight gradients are separate nodes.
/// The driver (passes/differentiate) sets phases, sums several uses, and gives every appended node the forward node as
/// its anchor and origin.
class GradientContext {
 public:
  GradientContext(Graph& graph, NodeId node, std::vector<ValueId> output_grads, std::vector<bool> needs,
                  ShapeChoices* choices = nullptr);

  const Attributes& attributes() const { return graph_.node(node_).attributes; }
  int input_count() const { return static_cast<int>(graph_.node(node_).inputs.size()); }
  /// Operand or result of the forward node; invalid when it is absent.
  ValueId input(int i) const;
  ValueId output(int i) const;
  /// d(loss)/d(output i); invalid when nothing downstream depends on that output.
  ValueId output_grad(int i) const;
  /// Must the rule give d(loss)/d(input i)?
  bool needs(int i) const;
  TensorType type(ValueId id) const;
  /// A copy: emitting a node may move the values of the graph.
  Shape shape(ValueId id) const { return graph_.value(id).shape; }
  DType dtype(ValueId id) const { return graph_.value(id).dtype; }

  void set_input_grad(int i, ValueId gradient);
  const std::vector<ValueId>& input_grads() const { return input_grads_; }

  // Appending nodes. `what` names the new node: "<forward node>/grad/<what>".
  ValueId emit(OpKind op, std::vector<ValueId> inputs, Attributes attributes = {}, std::string_view what = {});
  std::vector<ValueId> emit_many(OpKind op, std::vector<ValueId> inputs, int output_count, Attributes attributes = {},
                                 std::string_view what = {});
  /// Like emit_many, with outputs that are not wanted left absent.
  std::vector<ValueId> emit_some(OpKind op, std::vector<ValueId> inputs, const std::vector<bool>& wanted,
                                 Attributes attributes = {}, std::string_view what = {});
  /// A constant of one value with the dtype of `like`: a scalar, or a fill of a shape.
  ValueId scalar(double value, DType dtype);
  ValueId fill(double value, DType dtype, const Shape& shape);
  /// Any other constant; `what` names it.
  ValueId constant(std::string_view what, Literal literal);
  /// Sums `gradient` over the dimensions that broadcasting `to` had added or stretched. No node when the shapes agree.
  ValueId reduce_to(ValueId gradient, const Shape& to);
  ValueId reshape(ValueId value, const Shape& to);
  /// Broadcasts to a shape. No node when the shapes agree.
  ValueId expand(ValueId value, const Shape& to);
  // Short forms of common ops.
  ValueId add(ValueId a, ValueId b) { return emit(OpKind::Add, {a, b}); }
  ValueId sub(ValueId a, ValueId b) { return emit(OpKind::Sub, {a, b}); }
  ValueId mul(ValueId a, ValueId b) { return emit(OpKind::Mul, {a, b}); }
  ValueId div(ValueId a, ValueId b) { return emit(OpKind::Div, {a, b}); }
  ValueId neg(ValueId a) { return emit(OpKind::Neg, {a}); }

 private:
  std::vector<int64_t> choose(std::vector<int64_t> by_shape);

  Graph& graph_;
  NodeId node_;
  ShapeChoices* choices_;
  std::vector<ValueId> output_grads_;
  std::vector<bool> needs_;
  std::vector<ValueId> input_grads_;
};

}  // namespace mpc
