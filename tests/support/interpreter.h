#pragma once

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "compiler/base/literal.h"
#include "compiler/ir/graph.h"
#include "compiler/ops/op_def.h"
#include "executor/kernel.h"

// The simplest way to run ops and graphs: reference kernels, one tensor after the other. The oracle of tests of passes,
// plans and backends.

namespace mpc::test {

/// Operands or results of a node; an absent one is empty.
using Tensors = std::vector<std::optional<Literal>>;
using Types = std::vector<std::optional<TensorType>>;

Types types_of(const Tensors& tensors);

/// How a kernel is called beside its operands.
struct CallOptions {
  StepContext step;
  /// What every byte of results and workspace holds before the call.
  std::byte poison{0xFF};
  /// Result i is written over operand in_place[i], if that is not -1.
  std::vector<int> in_place;
};

/// Runs a kernel on operands, with at least 256 guarded bytes around every buffer, which begins at a multiple of 256.
/// @throws std::logic_error when the kernel wrote outside of its results.
Tensors run_kernel(const std::function<void(const KernelCall&)>& kernel, OpKind op, const Attributes& attributes,
                   const Tensors& inputs, const Types& outputs, const CallOptions& options = {});
Tensors run_reference(OpKind op, const Attributes& attributes, const Tensors& inputs, const Types& outputs,
                      const CallOptions& options = {});

using Bindings = std::vector<std::pair<ValueId, Literal>>;

/// The values of a graph after a step, by the index of their id; those of rate per_step are in `step`, the others in
/// `microbatches[i]`.
struct StepValues {
  Tensors step;
  std::vector<Tensors> microbatches;

  /// A value in a micro-batch, or of the step. @pre it was computed.
  const Literal& at(const Graph& graph, ValueId value, size_t microbatch = 0) const;
};

/// Runs one step: the per_step nodes that need no micro-batch, the per_microbatch nodes for every micro-batch in order,
/// then the other per_step nodes. Constants and states have the
/// content that the graph gives them unless they are bound. An op that updates a value in place replaces it: afterwards
/// the old value and the next one have the same content.
/// @param fixed         per_step inputs, parameters, and states that differ from their initial content
/// @param microbatches  the per_microbatch inputs of each micro-batch
/// @param step          its `microbatch` is set by this function
StepValues interpret(const Graph& graph, const Bindings& fixed, const std::vector<Bindings>& microbatches,
                     StepContext step = {});

/// A literal with the given numbers, rounded to the dtype.
Literal literal_of(DType dtype, const Shape& shape, const std::vector<double>& numbers);
std::vector<double> numbers_of(const Literal& literal);

}  // namespace mpc::test
