#pragma once

#include "executor/cuda/data.h"

// How kernels that move elements look at their tensors.

namespace mpc::cuda {

/// Bytes of an element of the first result.
inline int element_bytes(const executor::NodeSpec& node) {
  return static_cast<int>(dtype_bytes(node.outputs[0].dtype));
}

/// A shape around one axis: element (o, a, i) is at (o * length + a) * inner + i.
struct Axis {
  int64_t outer;
  int64_t length;
  int64_t inner;
};

inline Axis around(const Shape& shape, int64_t axis) {
  const int at = static_cast<int>(axis);
  return {shape.elements(0, at), shape[at], shape.elements(at + 1, shape.rank())};
}

struct ReportFault {
  Faults faults;
  int32_t kind;
  MPC_DEVICE void operator()(int64_t) const { faults.report(0, 0, kind); }
};

/// For operands of which no content is valid (an index into nothing): every step ends with the fault.
inline KernelOrReason always_fault(const executor::NodeSpec& node, int32_t kind) {
  const int64_t bytes = byte_size(node.outputs[0].shape, node.outputs[0].dtype);
  return function_kernel("cuda:fault", [=](const Launch& launch) {
    fill_bytes(launch.stream, launch.outputs[0], 0, bytes);
    for_each(launch.stream, 1, ReportFault{faults_of(launch), kind}, "fault");
  });
}

}  // namespace mpc::cuda
