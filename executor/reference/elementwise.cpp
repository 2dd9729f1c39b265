// Elementwise: the reference kernel of every step, on a few elements at a time. Each step stores its result in its
// dtype, as it does alone.

#include <numeric>

#include "compiler/base/elementwise_program.h"
#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

// Elements [begin, begin + to.elements) of `from` broadcast to `shape`.
void copy_broadcast(const TensorView& from, const Shape& shape, int64_t begin, const TensorView& to) {
  const Index steps = broadcast_strides(from.shape, shape);
  const int64_t count = to.shape.elements();
  for (int64_t i = 0; i < count; ++i) copy_element(to, i, from, offset(unravel(begin + i, shape), steps, shape.rank()));
}

}  // namespace

void Elementwise(const KernelCall& call) {
  const auto steps = parse_steps("Elementwise", call.attributes.texts("steps"), static_cast<int>(call.inputs.size()));
  const TensorView& y = call.outputs[0];
  const int64_t elements = y.shape.elements();
  const size_t registers = call.inputs.size() + steps.size();
  std::vector<std::array<std::byte, kChunk * sizeof(float)>> memory(registers);  // no step's type is wider
  std::vector<TensorView> values(registers);
  for (int64_t begin = 0; begin < elements; begin += kChunk) {
    const Shape chunk{std::min(kChunk, elements - begin)};
    for (size_t r = 0; r < registers; ++r) {
      const DType dtype = r < call.inputs.size() ? call.inputs[r].dtype : steps[r - call.inputs.size()].dtype;
      values[r] = {dtype, chunk, memory[r].data()};
      if (r < call.inputs.size()) copy_broadcast(call.inputs[r], y.shape, begin, values[r]);
    }
    for (size_t s = 0; s < steps.size(); ++s) {
      std::vector<TensorView> operands;
      for (const int operand : steps[s].operands)
        operands.push_back(operand == ElementwiseStep::kAbsent ? TensorView{} : values[static_cast<size_t>(operand)]);
      reference_kernel(steps[s].op)(
          {steps[s].attributes, operands, {&values[call.inputs.size() + s], 1}, call.step, {}});
    }
    std::memcpy(y.data + begin * dtype_bytes(y.dtype), values.back().data, static_cast<size_t>(values.back().bytes()));
  }
}

}  // namespace mpc::reference
