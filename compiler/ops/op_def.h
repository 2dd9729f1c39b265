#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/attributes.h"
#include "compiler/base/error.h"
#include "compiler/base/op_kind.h"
#include "compiler/base/shape.h"

// What mpc knows about one operator: its schema, type inference, gradient and cost. One definition per op; an op's
// definition, formula and source stand together in one file of this folder (families of alike ops share a file).

namespace mpc {

class GradientContext;  // compiler/ops/gradient.h

struct TensorType {
  DType dtype = DType::f32;
  Shape shape;
  bool operator==(const TensorType&) const = default;
};

enum class AttributeType : uint8_t { integer, number, text, integers, numbers, texts };

struct AttributeSpec {
  std::string_view name;
  AttributeType type;
  /// Filled in when absent. Without one the attribute is required, unless `is_optional`.
  std::optional<Attribute> default_value = {};
  bool is_optional = false;
};

/// An ONNX operand whose content must be known when planning and is carried as an attribute (the shape of a Reshape,
/// the axes of a reduction). Importing an operand that is absent leaves the attribute to its default.
struct StaticOperand {
  int onnx_input;
  std::string_view attribute;
};

/// What type inference sees and writes. Operand positions are those of the IR (static operands removed).
class InferContext {
 public:
  InferContext(std::string where, Attributes& attributes, std::vector<std::optional<TensorType>> inputs,
               int output_count);

  /// Attributes may be rewritten to their canonical form (explicit pads, positive axes); inference of the canonical
  /// form must give the same form.
  const Attributes& attributes() const { return attributes_; }
  void set_attribute(std::string_view name, Attribute value) { attributes_.set(name, std::move(value)); }
  void erase_attribute(std::string_view name) { attributes_.erase(name); }

  int input_count() const { return static_cast<int>(inputs_.size()); }
  bool has_input(int i) const { return i < input_count() && inputs_[static_cast<size_t>(i)].has_value(); }
  /// @pre has_input(i), or the schema requires it.
  const TensorType& input(int i) const { return *inputs_[static_cast<size_t>(i)]; }
  /// Number of outputs the node asks for (absent optional outputs at the end are not counted).
  int output_count() const { return output_count_; }

  void set_output(int i, DType dtype, const Shape& shape);
  /// As above for dims that come from attributes: fails with M051/M032 when they do not form a legal shape.
  void set_output(int i, DType dtype, const std::vector<int64_t>& dims);
  const std::vector<std::optional<TensorType>>& outputs() const { return outputs_; }

  // Checks that throw with the node in the message.
  [[noreturn]] void fail(ErrorId id, std::string message, std::string hint = {}) const;
  void require_same_dtype(int i, int j) const;
  void require_float(int i) const;
  void require_rank(int i, int rank) const;
  void require_min_rank(int i, int rank) const;
  /// The axis made positive. Fails with M031 when it is outside [-rank, rank).
  int axis(std::string_view attribute, int rank) const;
  Shape broadcast_inputs(int i, int j) const;  // fails with M032

 private:
  std::string where_;
  Attributes& attributes_;
  std::vector<std::optional<TensorType>> inputs_;
  std::vector<std::optional<TensorType>> outputs_;
  int output_count_;
};

/// Quantities, not times (rates are per device: compiler/cost).
struct OpQuantities {
  double flops = 0;             // multiply and add count as two
  int64_t workspace_bytes = 0;  // scratch the reference or library kernel needs beside operands
};

/// What a cost function sees: the canonical node.
struct CostContext {
  const Attributes& attributes;
  const std::vector<std::optional<TensorType>>& inputs;
  const std::vector<std::optional<TensorType>>& outputs;
  const TensorType& input(int i) const { return *inputs[static_cast<size_t>(i)]; }
  const TensorType& output(int i) const { return *outputs[static_cast<size_t>(i)]; }
};

enum class Differentiable : uint8_t {
  yes,       // `gradient` gives it
  constant,  // the derivative is zero or undefined everywhere (comparisons, ArgMax): gradients stop here
  no,        // differentiable in principle, but mpc has no gradient: training through it is refused by name
};

struct OpDef {
  OpKind op;
  int min_inputs = 1;
  int max_inputs = 1;  // kVariadic for any number
  int min_outputs = 1;
  int max_outputs = 1;
  std::vector<AttributeSpec> attributes = {};
  std::vector<StaticOperand> static_operands = {};
  void (*infer)(InferContext&) = nullptr;
  Differentiable differentiable = Differentiable::yes;
  void (*gradient)(GradientContext&) = nullptr;
  /// Null: one FLOP per output element.
  OpQuantities (*cost)(const CostContext&) = nullptr;
  /// Inputs to which the gradient never flows (indices, labels, statistics).
  std::vector<int> no_gradient_inputs = {};

  static constexpr int kVariadic = 1 << 20;
};

/// The definition of an op. Every op has one.
const OpDef& op_def(OpKind op);

/// Fills in defaults, checks attributes and arity against the schema, and infers the outputs of a node; `attributes`
/// become canonical. `where` names the node in errors. @throws Error(M022, M030..M033, M041, M051).
std::vector<std::optional<TensorType>> infer_types(OpKind op, const std::string& where, Attributes& attributes,
                                                   const std::vector<std::optional<TensorType>>& inputs,
                                                   int output_count);

/// Quantities of a node with canonical attributes.
OpQuantities op_quantities(OpKind op, const CostContext& context);

}  // namespace mpc
