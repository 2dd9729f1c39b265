#include "compiler/base/product_epilogue.h"

namespace mpc {

size_t product_inputs(OpKind op) {
  return op == OpKind::Gemm ? 3 : 2;
}

ProductEpilogue epilogue_of(OpKind op, const Attributes& attributes, DType dtype, const std::vector<bool>& is_present) {
  ProductEpilogue epilogue;
  for (size_t i = product_inputs(op); i < is_present.size(); ++i) {
    if (is_present[i]) epilogue.inputs.push_back(i);
  }
  const size_t operands = epilogue.inputs.size() + 1;
  const auto last = [&] { return static_cast<int>(epilogue.steps.empty() ? 0 : operands + epilogue.steps.size() - 1); };
  for (size_t i = 1; i < operands; ++i) {
    epilogue.steps.push_back({OpKind::Add, dtype, {last(), static_cast<int>(i)}, {}});
  }
  if (!attributes.has("activation")) return epilogue;
  const bool is_gelu = attributes.text("activation") == "Gelu";
  const Attributes by_tanh = {{"approximate", std::string("tanh")}};
  epilogue.steps.push_back({is_gelu ? OpKind::Gelu : OpKind::Relu, dtype, {last()}, is_gelu ? by_tanh : Attributes{}});
  return epilogue;
}

}  // namespace mpc
