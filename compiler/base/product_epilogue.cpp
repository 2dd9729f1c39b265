#include "compiler/base/product_epilogue.h"

namespace mpc {

size_t product_inputs(OpKind op) {
  return op == OpKind::Gemm ? 3 : 2;
}

Attributes product_attributes(const Attributes& attributes) {
  Attributes left = attributes;
  left.erase("activation");
  left.erase("sum_to");
  return left;
}

Attributes gelu_gradient_attributes() {
  return {{"approximate", std::string("tanh")}, {"function", std::string("Gelu")}};
}

ProductEpilogue epilogue_of(OpKind op, const Attributes& attributes, DType operands,
                            const std::vector<bool>& is_present) {
  ProductEpilogue epilogue;
  for (size_t i = product_inputs(op); i < is_present.size(); ++i) {
    if (is_present[i]) epilogue.inputs.push_back(i);
  }
  const int inputs = static_cast<int>(epilogue.inputs.size()) + 1;
  int last = 0;  // what the next step continues: the product, or the result of a step
  const auto then = [&](OpKind step, DType dtype, std::vector<int> with, const Attributes& of_step = {}) {
    epilogue.steps.push_back({step, dtype, std::move(with), of_step});
    return last = inputs + static_cast<int>(epilogue.steps.size()) - 1;
  };
  const auto cast = [&](DType dtype, int from) {
    return then(OpKind::Cast, dtype, {from}, {{"to", std::string(dtype_name(dtype))}});
  };
  if (attributes.has("sum_to")) {
    const DType sum = *parse_dtype(attributes.text("sum_to"));
    int product = cast(operands, 0);
    for (int i = 1; i < inputs - 1; ++i) {  // the row
      const int row = cast(operands, i);
      product = then(OpKind::Add, operands, {product, row});
    }
    then(OpKind::Add, sum, {cast(sum, product), inputs - 1});
    return epilogue;
  }
  const std::string activation = attributes.has("activation") ? attributes.text("activation") : "";
  if (activation == kGeluGradient) {
    then(OpKind::UnaryGrad, operands, {0, 1}, gelu_gradient_attributes());
    return epilogue;
  }
  for (int i = 1; i < inputs; ++i) then(OpKind::Add, operands, {last, i});
  if (activation.empty()) return epilogue;
  const bool is_gelu = activation == "Gelu";
  const Attributes by_tanh = {{"approximate", std::string("tanh")}};
  then(is_gelu ? OpKind::Gelu : OpKind::Relu, operands, {last}, is_gelu ? by_tanh : Attributes{});
  return epilogue;
}

}  // namespace mpc
