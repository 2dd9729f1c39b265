#include "compiler/ops/gradient.h"

#include <utility>

#include "compiler/ops/builder.h"

namespace mpc {

GradientContext::GradientContext(Graph& graph, NodeId node, std::vector<ValueId> output_grads, std::vector<bool> needs,
                                 ShapeChoices* choices)
    : graph_(graph),
      node_(node),
      choices_(choices),
      output_grads_(std::move(output_grads)),
      needs_(std::move(needs)),
      input_grads_(needs_.size()) {}

ValueId GradientContext::input(int i) const {
  const auto& inputs = graph_.node(node_).inputs;
  return i < static_cast<int>(inputs.size()) ? inputs[static_cast<size_t>(i)] : ValueId{};
}

ValueId GradientContext::output(int i) const {
  const auto& outputs = graph_.node(node_).outputs;
  return i < static_cast<int>(outputs.size()) ? outputs[static_cast<size_t>(i)] : ValueId{};
}

ValueId GradientContext::output_grad(int i) const {
  return i < static_cast<int>(output_grads_.size()) ? output_grads_[static_cast<size_t>(i)] : ValueId{};
}

bool GradientContext::needs(int i) const {
  return i < static_cast<int>(needs_.size()) && needs_[static_cast<size_t>(i)];
}

TensorType GradientContext::type(ValueId id) const {
  return {graph_.value(id).dtype, graph_.value(id).shape};
}

void GradientContext::set_input_grad(int i, ValueId gradient) {
  const Value& of = graph_.value(input(i));
  const Value& with = graph_.value(gradient);
  MPC_CHECK(of.shape == with.shape && of.dtype == with.dtype,
            "the gradient of input " + std::to_string(i) + " of " + describe(graph_.node(node_)) + " is " +
                type_text(with.dtype, with.shape) + ", the input is " + type_text(of.dtype, of.shape));
  input_grads_[static_cast<size_t>(i)] = gradient;
}

ValueId GradientContext::emit(OpKind op, std::vector<ValueId> inputs, Attributes attributes, std::string_view what) {
  return emit_many(op, std::move(inputs), 1, std::move(attributes), what)[0];
}

std::vector<ValueId> GradientContext::emit_many(OpKind op, std::vector<ValueId> inputs, int output_count,
                                                Attributes attributes, std::string_view what) {
  return emit_some(op, std::move(inputs), std::vector<bool>(static_cast<size_t>(output_count), true),
                   std::move(attributes), what);
}

std::vector<ValueId> GradientContext::emit_some(OpKind op, std::vector<ValueId> inputs, const std::vector<bool>& wanted,
                                                Attributes attributes, std::string_view what) {
  NodeInfo info;
  info.name = graph_.node(node_).name + "/grad/" + std::string(what.empty() ? op_name(op) : what);
  info.origin = graph_.node(node_).origin;
  info.phase = Phase::input_grad;
  info.anchor = node_;
  for (size_t i = 0; i < wanted.size(); ++i)
    info.output_names.push_back(wanted[i] ? info.name + (i == 0 ? "" : ":" + std::to_string(i)) : "");
  const NodeId id = append(graph_, op, std::move(inputs), std::move(attributes), std::move(info));
  std::vector<ValueId> outputs = graph_.node(id).outputs;
  outputs.resize(wanted.size());
  return outputs;
}

ValueId GradientContext::scalar(double value, DType dtype) {
  return graph_.add_constant("scalar", Literal::scalar(dtype, value));
}

ValueId GradientContext::fill(double value, DType dtype, const Shape& shape) {
  return graph_.add_constant("fill", Literal::splat_number(dtype, shape, value));
}

ValueId GradientContext::constant(std::string_view what, Literal literal) {
  return graph_.add_constant(std::string(what), std::move(literal));
}

std::vector<int64_t> GradientContext::choose(std::vector<int64_t> by_shape) {
  if (choices_ == nullptr) return by_shape;
  if (!choices_->is_replay) {
    choices_->made.push_back(std::move(by_shape));
    return choices_->made.back();
  }
  return choices_->next < choices_->made.size() ? choices_->made[choices_->next++] : by_shape;
}

ValueId GradientContext::reduce_to(ValueId gradient, const Shape& to) {
  const Shape from = shape(gradient);
  std::vector<int64_t> axes;
  const int extra = from.rank() - to.rank();
  for (int i = 0; i < from.rank(); ++i) {
    if (i < extra || (to[i - extra] == 1 && from[i] != 1)) axes.push_back(i);
  }
  axes = choose(std::move(axes));
  if (!axes.empty()) gradient = emit(OpKind::ReduceSum, {gradient}, {{"axes", axes}, {"keepdims", int64_t{1}}});
  return reshape(gradient, to);
}

ValueId GradientContext::reshape(ValueId value, const Shape& to) {
  if (choose({shape(value) == to ? 0 : 1})[0] == 0) return value;
  return emit(OpKind::Reshape, {value}, {{"shape", to.to_vector()}, {"allowzero", int64_t{1}}});
}

ValueId GradientContext::expand(ValueId value, const Shape& to) {
  if (choose({shape(value) == to ? 0 : 1})[0] == 0) return value;
  return emit(OpKind::Expand, {value}, {{"shape", to.to_vector()}});
}

}  // namespace mpc
