#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/attributes.h"
#include "compiler/base/dtype.h"
#include "compiler/base/ids.h"
#include "compiler/base/literal.h"
#include "compiler/base/op_kind.h"
#include "compiler/base/shape.h"
#include "compiler/base/weight_recipe.h"
#include "compiler/ir/name_table.h"

// The semantics of the IR.
//
// A Graph is one training (or inference) step, written for ONE micro-batch. It is a list of nodes in an order in which
// every operand is made before it is used: node ids ascend along every edge. Values are in single assignment.
//
// Rate. A node is executed once per micro-batch or once per step. A value with Rate::per_microbatch has one instance
// for each micro-batch (inputs, activations, activation gradients). A value with Rate::per_step has one instance per
// step (parameters, optimizer state, accumulated gradients, learning-rate inputs, constants). A node of rate per_step
// reads only per_step values, and stands after every node that produces them.
//
// In-place updates. Some ops write an output over one of their inputs (ops.def, column aliases): GradAccumulate adds a
// micro-batch's gradient to its accumulator, an update writes the next parameter over the parameter. The old and the
// next value then share their bytes, so every other reader of the old value comes before that node. A per_step
// value that is aliased by a per_microbatch node holds its final content once the node has run for every micro-batch,
// in ascending order of micro-batches; before the first one, GradAccumulate stores instead of adding.
//
// Persistent values. A parameter's content comes from the model (initializer `source`), a state's from its literal
// (initial content). `updates` says which value replaces a persistent value at the end of a step; the replacement
// is always an alias of it. Values of kind constant never change.
//
// Phases. Every node is forward, input_grad (needed by another gradient), weight_grad (leads only to a parameter's
// gradient) or update. `anchor` of a gradient or update node is the forward node it belongs to; place() puts it on
// the device of its anchor.
//
// Devices. After place() every node has a device. After insert_transfers() every operand of a node is available on the
// node's device: it was produced there, or by a Transfer node of that device; graph inputs, constants and parameters
// have the device list of their readers (all may be on several devices, but a parameter that an update replaces is on
// one). A Transfer node carries n values to its device: output i is a copy of input i.
//
// Loss. The loss is a scalar per micro-batch, already weighted so that the sum over the micro-batches of a step is the
// loss of the whole batch; gradients are seeded with 1, so accumulated gradients need no rescaling.

namespace mpc {

enum class Phase : uint8_t { forward, input_grad, weight_grad, update };
enum class Rate : uint8_t { per_microbatch, per_step };
enum class ValueKind : uint8_t { input, parameter, state, constant, node };
/// How far a graph has come; the verifier checks the rules of its stage.
enum class Stage : uint8_t { imported, canonical, training, placed, local };

std::string_view phase_name(Phase phase);
std::string_view stage_name(Stage stage);
std::string_view value_kind_name(ValueKind kind);

struct Value {
  std::string name;  // unique in the graph
  DType dtype = DType::f32;
  Shape shape;
  ValueKind kind = ValueKind::node;
  Rate rate = Rate::per_microbatch;
  NodeId producer;           // kind node only
  int output_index = 0;      // kind node only
  Literal literal;           // constant: its content; state: its initial content
  std::string source;        // parameter: the initializer's name in the model
  WeightRecipe recipe = {};  // parameter: how it is made of more than that, or in another order
  bool trainable = false;    // parameter: does the optimizer update it?

  int64_t bytes() const { return byte_size(shape, dtype); }
};

struct Node {
  OpKind op{};
  std::string name;    // unique in the graph
  std::string origin;  // the ONNX node it comes from, for messages: `features/conv (Conv)`
  Attributes attributes;
  std::vector<ValueId> inputs;   // an invalid id is an optional operand that is absent
  std::vector<ValueId> outputs;  // an invalid id is an optional output that nobody asked for
  Phase phase = Phase::forward;
  Rate rate = Rate::per_microbatch;
  NodeId anchor;    // gradient and update nodes: the forward node they belong to
  DeviceId device;  // from place() on
};

struct NamedValue {
  std::string name;
  ValueId value;
};

/// `next` replaces `persistent` (a parameter or state) at the end of the step.
struct Update {
  ValueId persistent;
  ValueId next;
};

/// The accumulated gradient of a parameter.
struct ParameterGradient {
  ValueId parameter;
  ValueId gradient;
};

/// See the top of this file. Ids stay valid: nothing is ever removed; passes that drop nodes build another graph
/// (compiler/ir/rewriter.h).
class Graph {
 public:
  std::string name;
  Stage stage = Stage::imported;
  std::vector<ValueId> inputs;               // graph inputs in the model's order, then those mpc added
  std::vector<NamedValue> outputs;           // the model's outputs (and "loss" when training)
  ValueId loss;                              // training: the weighted scalar loss of a micro-batch
  std::vector<Update> updates;               // training
  std::vector<ParameterGradient> gradients;  // training

  /// Adds a value that no node makes. A name that is taken gets a suffix. @return its id.
  ValueId add_input(std::string name, DType dtype, Shape shape, Rate rate = Rate::per_microbatch);
  ValueId add_parameter(std::string name, DType dtype, Shape shape, std::string source, bool trainable);
  ValueId add_state(std::string name, Literal initial);
  ValueId add_constant(std::string name, Literal literal);
  /// Adds `node` at the end with outputs of the given types; an output without a name is absent. `node.outputs` is
  /// replaced. @pre inputs exist. Type inference is the business of compiler/ops: see ops/builder.h.
  struct OutputType {
    std::string name;
    DType dtype = DType::f32;
    Shape shape;
    Rate rate = Rate::per_microbatch;
  };
  NodeId add_node(Node node, std::vector<OutputType> outputs);
  /// Makes room for so many nodes and values in all.
  void reserve(int nodes, int values);

  int node_count() const { return static_cast<int>(nodes_.size()); }
  int value_count() const { return static_cast<int>(values_.size()); }
  const Node& node(NodeId id) const { return nodes_[id.index()]; }
  Node& node(NodeId id) { return nodes_[id.index()]; }
  const Value& value(ValueId id) const { return values_[id.index()]; }
  Value& value(ValueId id) { return values_[id.index()]; }
  std::span<const Node> nodes() const { return nodes_; }
  std::span<const Value> values() const { return values_; }

  /// A name based on `base` that no value (node) has yet. O(1) amortized.
  std::string unique_value_name(std::string_view base);
  std::string unique_node_name(std::string_view base);

 private:
  ValueId add_value(Value value);

  std::vector<Node> nodes_;
  std::vector<Value> values_;
  NameTable value_names_;
  NameTable node_names_;
};

/// For each value, the nodes that read it, in id order (a node that reads it twice stands twice).
std::vector<std::vector<NodeId>> users_of(const Graph& graph);

/// `conv1 (Conv)`: how messages name a node.
std::string describe(const Node& node);

}  // namespace mpc
