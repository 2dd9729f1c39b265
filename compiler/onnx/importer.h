#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "compiler/ir/graph.h"
#include "compiler/onnx/model.h"
#include "compiler/onnx/model_data.h"
#include "compiler/ops/evaluate.h"
#include "compiler/ops/op_def.h"

namespace mpc::onnx_io {

/// A value of the ONNX model while it is imported: a position in the importer's table. kAbsent: an optional operand
/// that is not given.
using Slot = int;
inline constexpr Slot kAbsent = -1;

/// One ONNX node that is being imported.
struct OnnxNode {
  const pb::NodeProto* proto = nullptr;
  std::string op;
  std::string name;    // unique in the model
  std::string origin;  // of the node in the file that it comes from
  const Opsets* opsets = nullptr;
  int depth = 0;  // how many ONNX functions it was expanded from
  std::vector<Slot> inputs;
  std::vector<std::string> outputs;  // "" for an absent one
  Attributes attributes;             // numbers and texts; tensors and graphs stay in the proto

  int64_t opset() const;
  std::string where() const;
  bool has_input(size_t i) const { return i < inputs.size() && inputs[i] != kAbsent; }
  Slot input(size_t i) const { return i < inputs.size() ? inputs[i] : kAbsent; }
  bool has_output(size_t i) const { return i < outputs.size() && !outputs[i].empty(); }
  const pb::AttributeProto* find(std::string_view attribute) const;
  int64_t integer(std::string_view attribute, int64_t otherwise) const;
  double number(std::string_view attribute, double otherwise) const;
  std::string text(std::string_view attribute, std::string_view otherwise) const;
  [[noreturn]] void fail(ErrorId id, std::string message, std::string hint = {}) const;
};

/// A matrix product whose inner dimensions differ.
struct ProductMismatch {
  std::string node;
  int64_t found = 0;     // of the left operand
  int64_t expected = 0;  // of the right one
};

/// Builds the graph of a model: one node after the other in topological order; operands that are known are folded on
/// the way. Import rules (import_rules.h) use the lower half.
class Importer {
 public:
  Importer(const Model::Data& data, const ImportOptions& options, const Evaluator& evaluator);

  Graph run();
  const std::vector<UnsupportedNode>& unsupported() const { return unsupported_; }
  /// The product at which run() ended, if it was one.
  const std::optional<ProductMismatch>& mismatch() const { return mismatch_; }
  /// Bytes of the constants that run() has computed.
  int64_t folded_bytes() const { return folded_bytes_; }
  /// Has run(), which ended with an error, come past the node of this name, which makes a value of the graph?
  bool has_imported(const std::string& node) const;
  /// The type of an input of the model. @pre run() has come past the inputs.
  const TensorType& input_type(const std::string& name) const { return type(names_.at(name)); }
  /// Gives an input this shape, whatever the model says of it. @pre before run().
  void force_input(const std::string& name, std::vector<int64_t> shape) { forced_inputs_[name] = std::move(shape); }
  /// The error that names every unsupported node. @pre there is one.
  [[noreturn]] void throw_unsupported() const;

  const ImportOptions& options() const { return options_; }
  const Limits& limits() const { return data_.limits; }
  /// A tensor of an attribute. @throws Error(M041) when mpc has no tensors of its type or rank.
  TensorContent tensor(const OnnxNode& node, const pb::TensorProto& tensor) const;
  Literal read(const TensorContent& content) const { return to_literal(content, data_.files.get()); }

  // What a slot is.
  const TensorType& type(Slot slot) const { return slots_[static_cast<size_t>(slot)].type; }
  /// The content, when shape arithmetic may rely on it: constants, small integer initializers and what is computed from
  /// them.
  const std::optional<Literal>& known(Slot slot) const { return slots_[static_cast<size_t>(slot)].literal; }
  /// As known(), and the content of small initializers too, for operands that become attributes.
  std::optional<Literal> content(Slot slot) const;
  /// As content(). @throws Error(M043) naming the operand when it is not known.
  Literal require_content(const OnnxNode& node, size_t input, std::string_view what) const;
  /// Does a node of the file, or the file's user, read the value? (A result may be named and of no use.)
  bool is_read(const std::string& name) const { return data_.readers.contains(name); }
  bool is_weight(Slot slot) const { return slots_[static_cast<size_t>(slot)].weight != nullptr; }
  /// Statistics are parameters that no gradient reaches. @pre is_weight(slot), and no node has read it yet.
  void set_not_trainable(Slot slot) { slots_[static_cast<size_t>(slot)].trainable = false; }
  /// The graph's value for the slot; adds the constant or parameter on its first use.
  ValueId value(Slot slot);

  // Making slots.
  Slot add_literal(std::string name, Literal literal);
  /// A scalar of the type of `like`.
  Slot scalar_like(Slot like, double value, const std::string& name);
  /// Gives a result of the ONNX node its slot.
  void bind(const OnnxNode& node, size_t output, Slot slot);
  /// A literal within the limits on folded constants as a result.
  void bind_literal(const OnnxNode& node, size_t output, Literal literal);
  /// @throws Error(M051) when a constant of `bytes` would pass the limits.
  void count_folded(const OnnxNode& node, int64_t bytes);

  // Appending nodes. All evaluate instead when every operand is known and the result is small.
  /// The results that `node` asks for, named and bound. The IR node is named after the ONNX node.
  std::vector<Slot> emit_results(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs,
                                 Attributes attributes);
  /// One intermediate result; the IR node is named `<ONNX node>/<suffix>`.
  Slot emit(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs, Attributes attributes,
            std::string_view suffix);
  /// The same with several results: `<ONNX node>/<suffix>.0`, `.1`...
  std::vector<Slot> emit_parts(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs, Attributes attributes,
                               std::string_view suffix, int64_t count);
  Slot reshape(const OnnxNode& node, Slot slot, const std::vector<int64_t>& shape, std::string_view suffix);
  /// Imports the node as the IR's op of the same meaning: static operands become attributes.
  void import_plain(OnnxNode& node, OpKind op);
  /// A running number for ops that draw random numbers.
  int64_t next_rng() { return rng_count_++; }
  /// Imports the nodes of a graph inside `node` instead of it; the graph's outputs become the node's. Names of the
  /// graphs around it stay visible.
  void inline_graph(const OnnxNode& node, const pb::GraphProto& graph);
  void add_update(Slot persistent, Slot next) { graph_.updates.push_back({value(persistent), value(next)}); }

 private:
  struct SlotData {
    std::string name;
    TensorType type;
    ValueId value;
    std::optional<Literal> literal;
    const TensorContent* weight = nullptr;
    bool trainable = false;
    bool is_unsupported = false;  // made by a node that cannot be imported
  };
  struct Work {
    const pb::NodeProto* proto;
    std::shared_ptr<const pb::NodeProto> owned;  // nodes of expanded functions; shared only because Work is copied
    std::string name;
    std::string origin;
    const Opsets* opsets;
    int depth;
  };

  void note_product(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs, const Attributes& attributes);
  void add_inputs();
  void add_outputs();
  void require_bound() const;
  bool is_batch(const DeclaredValue& input, size_t axis) const;
  std::optional<int64_t> input_dim(const DeclaredValue& input, size_t axis) const;
  std::vector<int64_t> input_dims(const DeclaredValue& input);
  void add_known_input(const DeclaredValue& input, const Literal& literal);
  void process(const Work& work);
  void import_node(OnnxNode& node);
  bool expand_function(const OnnxNode& node);
  void push(const OnnxNode& node, std::vector<pb::NodeProto> body, const Opsets* opsets);
  void refuse(const OnnxNode& node, const std::string& reason, ErrorId id);
  Slot lookup(const std::string& name);
  bool is_exported_constant(const std::string& name, const TensorContent& content) const;
  Slot add_slot(SlotData data);
  std::vector<Slot> emit_named(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs, Attributes attributes,
                               const std::string& node_name, const std::vector<std::string>& output_names);
  std::optional<std::vector<Slot>> fold(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs,
                                        const Attributes& attributes, const std::vector<std::string>& output_names);

  const Model::Data& data_;
  const ImportOptions& options_;
  const Evaluator& evaluator_;
  Graph graph_;
  std::vector<SlotData> slots_;
  std::unordered_map<std::string, Slot> names_;
  std::unordered_map<std::string, int32_t> declared_types_;  // of value_info and graph outputs
  std::map<std::string, int64_t> dims_;                      // symbols that are bound
  std::unordered_set<std::string> expanded_names_;
  std::vector<Work> work_;
  std::deque<Opsets> expanded_opsets_;
  std::vector<UnsupportedNode> unsupported_;
  std::vector<ErrorId> unsupported_ids_;
  std::optional<ProductMismatch> mismatch_;
  std::map<std::string, std::vector<int64_t>> forced_inputs_;
  int64_t node_count_ = 0;
  int64_t folded_bytes_ = 0;
  int64_t rng_count_ = 0;
};

}  // namespace mpc::onnx_io
