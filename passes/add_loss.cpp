#include "passes/add_loss.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

struct LossRow {
  std::string_view name;
  LossKind kind;
};
constexpr std::array<LossRow, 6> kLosses = {{{"cross-entropy", LossKind::cross_entropy},
                                             {"nll", LossKind::nll},
                                             {"mse", LossKind::mse},
                                             {"l1", LossKind::l1},
                                             {"bce-with-logits", LossKind::bce_with_logits},
                                             {"none", LossKind::none}}};

class LossBuilder {
 public:
  LossBuilder(Graph& graph, ValueId output, const LossOptions& options)
      : graph_(graph), y_(output), weight_(options.weight), ignored_label_(options.ignored_label) {}

  ValueId class_loss(OpKind op) {
    const Shape shape = graph_.value(y_).shape;
    if (shape.rank() < 2) fail(fmt::format("has shape {}, the loss needs (n, classes, ...)", to_string(shape)));
    // A language model's logits are (n, sequence, classes): ONNX wants the classes second, so rows are merged instead.
    const bool classes_last = shape.rank() == 3 && has_token_input();
    ValueId scores = y_;
    Shape labels_shape;
    if (classes_last) {
      labels_shape = Shape{shape[0], shape[1]};
      scores = emit(OpKind::Reshape, {y_}, {{"shape", std::vector<int64_t>{shape[0] * shape[1], shape[2]}}}, "rows");
    } else {
      std::vector<int64_t> dims = shape.to_vector();
      dims.erase(dims.begin() + 1);
      labels_shape = Shape(dims);
    }
    ValueId labels = graph_.add_input(std::string(kLabelsInput), DType::i64, labels_shape);
    if (classes_last) {
      labels = emit(OpKind::Reshape, {labels}, {{"shape", std::vector<int64_t>{labels_shape.elements()}}}, "labels");
    }
    if (!ignored_label_)
      return emit(op, {scores, labels}, {{"reduction", std::string("mean")}, {"scale", weight_}}, op_name(op));
    const Attributes sum = {{"reduction", std::string("sum")}, {"ignore_index", *ignored_label_}};
    const ValueId all = emit(op, {scores, labels}, sum, op_name(op));
    const DType dtype = graph_.value(all).dtype;
    return emit(OpKind::Mul, {all, graph_.add_input(std::string(kLabelShareInput), dtype, Shape{}, Rate::per_step)}, {},
                "mean");
  }

  ValueId mean_loss(LossKind kind) {
    const Value& y = graph_.value(y_);
    if (!is_float(y.dtype)) fail(fmt::format("is {}, the loss needs floats", dtype_name(y.dtype)));
    const DType dtype = y.dtype;
    const ValueId target = graph_.add_input(std::string(kLabelsInput), dtype, y.shape);
    ValueId each;
    if (kind == LossKind::bce_with_logits) {
      const ValueId positive = emit(OpKind::Relu, {y_}, {}, "relu");
      const ValueId product = emit(OpKind::Mul, {y_, target}, {}, "product");
      const ValueId magnitude = emit(OpKind::Abs, {y_}, {}, "magnitude");
      const ValueId soft = emit(OpKind::Softplus, {emit(OpKind::Neg, {magnitude}, {}, "negative")}, {}, "softplus");
      each = emit(OpKind::Add, {emit(OpKind::Sub, {positive, product}, {}, "linear"), soft}, {}, "each");
    } else {
      const ValueId difference = emit(OpKind::Sub, {y_, target}, {}, "difference");
      each = kind == LossKind::mse ? emit(OpKind::Mul, {difference, difference}, {}, "square")
                                   : emit(OpKind::Abs, {difference}, {}, "magnitude");
    }
    const ValueId mean = emit(OpKind::ReduceMean, {each}, {{"keepdims", int64_t{0}}}, "mean");
    return weighted(mean, dtype);
  }

  ValueId own_loss() {
    const Value& y = graph_.value(y_);
    if (y.shape.elements() != 1 || !is_float(y.dtype))
      fail(fmt::format("is {}, a loss is one float", type_text(y.dtype, y.shape)));
    return weighted(y_, y.dtype);
  }

 private:
  bool has_token_input() const {
    for (const ValueId input : graph_.inputs) {
      if (graph_.value(input).dtype == DType::i64 || graph_.value(input).dtype == DType::i32) return true;
    }
    return false;
  }

  ValueId weighted(ValueId loss, DType dtype) {
    const ValueId weight = graph_.add_constant("loss/weight", Literal::scalar(dtype, weight_));
    return emit(OpKind::Mul, {loss, weight}, {}, "weighted");
  }

  ValueId emit(OpKind op, std::vector<ValueId> inputs, Attributes attributes, std::string_view what) {
    NodeInfo info;
    info.name = fmt::format("loss/{}", what);
    const NodeId id = append(graph_, op, std::move(inputs), std::move(attributes), std::move(info));
    return graph_.node(id).outputs[0];
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorId::M032, fmt::format("output \"{}\"", graph_.value(y_).name), what);
  }

  Graph& graph_;
  ValueId y_;
  double weight_;
  std::optional<int64_t> ignored_label_;
};

ValueId find_output(const Graph& graph, const std::string& name) {
  std::vector<std::string> names;
  for (const NamedValue& output : graph.outputs) {
    if (output.name == name || (name.empty() && graph.outputs.size() == 1)) return output.value;
    names.push_back(output.name);
  }
  if (name.empty()) {
    throw Error(ErrorId::M002, "--loss-input", fmt::format("the model has {} outputs", graph.outputs.size()),
                "name the one the loss is taken of, for example --loss-input " + names.front());
  }
  const auto near = nearest(name, names);
  throw Error(ErrorId::M002, "--loss-input", fmt::format("the model has no output '{}'", name),
              near ? "did you mean '" + *near + "'?" : "");
}

}  // namespace

std::optional<LossKind> parse_loss(std::string_view name) {
  for (const LossRow& row : kLosses) {
    if (row.name == name) return row.kind;
  }
  return std::nullopt;
}

std::vector<std::string> loss_names() {
  std::vector<std::string> names;
  for (const LossRow& row : kLosses) names.emplace_back(row.name);
  return names;
}

Graph add_loss(const Graph& graph, const LossOptions& options) {
  Graph result = graph;
  const ValueId y = find_output(result, options.output);
  LossBuilder builder(result, y, options);
  const bool has_classes = options.kind == LossKind::cross_entropy || options.kind == LossKind::nll;
  if (options.ignored_label && !has_classes)
    throw Error(ErrorId::M003, "--ignore-label", "the loss has no classes", "it is for cross-entropy and nll");
  switch (options.kind) {
    case LossKind::cross_entropy:
      result.loss = builder.class_loss(OpKind::SoftmaxCrossEntropyLoss);
      break;
    case LossKind::nll:
      result.loss = builder.class_loss(OpKind::NegativeLogLikelihoodLoss);
      break;
    case LossKind::none:
      result.loss = builder.own_loss();
      break;
    default:
      result.loss = builder.mean_loss(options.kind);
  }
  std::erase_if(result.outputs, [&](const NamedValue& output) {
    // A model that computes its loss itself tends to call it "loss": from here on that is the weighted loss.
    return !options.keeps_outputs || (output.name == kLossOutput && output.value == y);
  });
  if (std::ranges::find(result.outputs, kLossOutput, &NamedValue::name) != result.outputs.end()) {
    throw Error(ErrorId::M046, "output \"loss\"",
                "has the name that the loss gets, and is not what the loss is taken of", "rename the model's output");
  }
  result.outputs.push_back({std::string(kLossOutput), result.loss});
  return result;
}

}  // namespace mpc
