// Elementwise operators with two or three operands and broadcasting: the functors of executor/functors, in f32 over
// f32, f16 and bf16, and in i64 (wrapping) over integers and bool. A result may take the bytes of an operand of its own
// shape.

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/functors/binary.h"

namespace mpc::cuda {
namespace {

template <class F, class In, class Out>
struct Zip {
  In a;
  In b;
  Out y;
  Walk<2> walk;
  MPC_DEVICE void operator()(int64_t i) const {
    const auto at = walk.positions(i);
    y.set(i, F::value(a[at.at[0]], b[at.at[1]]));
  }
};

struct Choose {
  const uint8_t* condition;
  const void* a;
  const void* b;
  void* y;
  int bytes;
  Walk<3> walk;
  MPC_DEVICE void operator()(int64_t i) const {
    const auto at = walk.positions(i);
    const bool takes_a = condition[at.at[0]] != 0;
    copy_element(y, i, takes_a ? a : b, takes_a ? at.at[1] : at.at[2], bytes);
  }
};

bool is_whole(DType dtype) {
  return (is_integer(dtype) && dtype != DType::u64) || dtype == DType::boolean;
}

template <class F, class In, class Out>
KernelOrReason zip(const executor::NodeSpec& node) {
  const Shape& shape = node.outputs[0].shape;
  const int64_t count = shape.elements();
  const Walk<2> walk =
      make_walk<2>(shape, {broadcast_steps(node.inputs[0].shape, shape), broadcast_steps(node.inputs[1].shape, shape)});
  const DType a = input_dtype(node, 0);
  const DType b = input_dtype(node, 1);
  const DType y = output_dtype(node, 0);
  return function_kernel("cuda:functor", [=](const Launch& launch) {
    for_each(launch.stream, count,
             Zip<F, In, Out>{{launch.inputs[0], a}, {launch.inputs[1], b}, {launch.outputs[0], y}, walk}, "binary");
  });
}

bool has_floats(const executor::NodeSpec& node) {
  return is_small_float(input_dtype(node, 0)) && is_small_float(input_dtype(node, 1));
}
bool has_integers(const executor::NodeSpec& node) {
  return is_whole(input_dtype(node, 0)) && is_whole(input_dtype(node, 1));
}

template <class F>
KernelOrReason floats_only(const executor::NodeSpec& node) {
  if (has_floats(node)) return zip<F, FloatIn, FloatOut>(node);
  return declined("binary: only f32, f16 and bf16");
}

template <class F>
KernelOrReason arithmetic(const executor::NodeSpec& node) {
  if (has_floats(node)) return zip<F, FloatIn, FloatOut>(node);
  if (has_integers(node)) return zip<F, IntegerIn, IntegerOut>(node);
  return declined("binary: no f64 and u64");
}

template <class F>
KernelOrReason comparison(const executor::NodeSpec& node) {
  if (has_floats(node)) return zip<F, FloatIn, IntegerOut>(node);
  if (has_integers(node)) return zip<F, IntegerIn, IntegerOut>(node);
  return declined("comparison: no f64 and u64");
}

}  // namespace

KernelOrReason binary(const executor::NodeSpec& node, const MakeOptions&) {
  switch (node.op) {
    case OpKind::Add:
      return arithmetic<functors::Add>(node);
    case OpKind::Sub:
      return arithmetic<functors::Sub>(node);
    case OpKind::Mul:
      return arithmetic<functors::Mul>(node);
    case OpKind::Max:
      return arithmetic<functors::Max>(node);
    case OpKind::Min:
      return arithmetic<functors::Min>(node);
    case OpKind::Div:
      return floats_only<functors::Div>(node);  // an integer divisor of 0 has to be an error
    case OpKind::PRelu:
      return floats_only<functors::PRelu>(node);
    case OpKind::Pow:
      return floats_only<functors::Pow>(node);
    case OpKind::Equal:
      return comparison<functors::Equal>(node);
    case OpKind::Greater:
      return comparison<functors::Greater>(node);
    case OpKind::GreaterOrEqual:
      return comparison<functors::GreaterOrEqual>(node);
    case OpKind::Less:
      return comparison<functors::Less>(node);
    case OpKind::LessOrEqual:
      return comparison<functors::LessOrEqual>(node);
    case OpKind::And:
      return comparison<functors::And>(node);
    case OpKind::Or:
      return comparison<functors::Or>(node);
    case OpKind::Xor:
      return comparison<functors::Xor>(node);
    default:
      return declined("binary: no functor");
  }
}

KernelOrReason where(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& shape = node.outputs[0].shape;
  const int64_t count = shape.elements();
  const Walk<3> walk =
      make_walk<3>(shape, {broadcast_steps(node.inputs[0].shape, shape), broadcast_steps(node.inputs[1].shape, shape),
                           broadcast_steps(node.inputs[2].shape, shape)});
  const int bytes = static_cast<int>(dtype_bytes(output_dtype(node, 0)));
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    for_each(launch.stream, count,
             Choose{launch.in<uint8_t>(0), launch.inputs[1], launch.inputs[2], launch.outputs[0], bytes, walk},
             "Where");
  });
}

}  // namespace mpc::cuda
