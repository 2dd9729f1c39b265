// Elementwise operators with two or three operands and broadcasting: the functors of executor/functors, in f32 over
// f32, f16 and bf16, in f64 over f64, and in i64 or u64 (wrapping) over integers and bool. A result may take the bytes
// of an operand of its own shape.

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/functors/binary.h"

namespace mpc::cuda {
namespace {

/// C: what is computed in; R: what results are (int64_t for a comparison).
template <class F, class C, class R>
struct Zip {
  In<C> a;
  In<C> b;
  Out<R> y;
  Walk<2> walk;
  MPC_DEVICE void operator()(int64_t i) const {
    const auto at = walk.positions(i);
    y.set(i, static_cast<R>(F::value(a[at.at[0]], b[at.at[1]])));
  }
};

/// For functions of integers that are not defined everywhere: F::refuses(a, b) is the fault, or MPC_CUDA_FAULT_NONE.
/// The result is then 0.
template <class F, class C>
struct CheckedZip {
  In<C> a;
  In<C> b;
  Out<C> y;
  Walk<2> walk;
  Faults faults;
  MPC_DEVICE void operator()(int64_t i) const {
    const auto at = walk.positions(i);
    const C left = a[at.at[0]];
    const C right = b[at.at[1]];
    const int32_t fault = F::refuses(left, right);
    if (fault != MPC_CUDA_FAULT_NONE) faults.report(static_cast<int64_t>(right), 0, fault);
    y.set(i, fault == MPC_CUDA_FAULT_NONE ? F::value(left, right) : C{0});
  }
};

template <class F>
struct DividingBy : F {
  template <class C>
  MPC_DEVICE static int32_t refuses(C, C divisor) {
    return divisor == C{0} ? MPC_CUDA_FAULT_DIVISION : MPC_CUDA_FAULT_NONE;
  }
};

struct WholePower : functors::Pow {
  template <class C>
  MPC_DEVICE static int32_t refuses(C base, C exponent) {
    return base == C{0} && exponent < C{0} ? MPC_CUDA_FAULT_POWER : MPC_CUDA_FAULT_NONE;
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

Walk<2> walk_of(const executor::NodeSpec& node) {
  const Shape& shape = node.outputs[0].shape;
  return make_walk<2>(shape,
                      {broadcast_steps(node.inputs[0].shape, shape), broadcast_steps(node.inputs[1].shape, shape)});
}

template <class F, class C, class R>
KernelOrReason zip(const executor::NodeSpec& node) {
  const int64_t count = node.outputs[0].shape.elements();
  const Walk<2> walk = walk_of(node);
  const DType a = input_dtype(node, 0);
  const DType b = input_dtype(node, 1);
  const DType y = output_dtype(node, 0);
  return function_kernel("cuda:functor", [=](const Launch& launch) {
    for_each(launch.stream, count,
             Zip<F, C, R>{{launch.inputs[0], a}, {launch.inputs[1], b}, {launch.outputs[0], y}, walk}, "binary");
  });
}

template <class F, class C>
KernelOrReason checked_zip(const executor::NodeSpec& node) {
  const int64_t count = node.outputs[0].shape.elements();
  const Walk<2> walk = walk_of(node);
  const DType a = input_dtype(node, 0);
  const DType b = input_dtype(node, 1);
  const DType y = output_dtype(node, 0);
  return function_kernel("cuda:functor", [=](const Launch& launch) {
    for_each(
        launch.stream, count,
        CheckedZip<F, C>{{launch.inputs[0], a}, {launch.inputs[1], b}, {launch.outputs[0], y}, walk, faults_of(launch)},
        "binary");
  });
}

template <class F>
KernelOrReason arithmetic(const executor::NodeSpec& node) {
  return with_compute_type(input_dtype(node, 0), [&](auto tag) {
    using C = decltype(tag);
    return zip<F, C, C>(node);
  });
}

template <class F>
KernelOrReason comparison(const executor::NodeSpec& node) {
  return with_compute_type(input_dtype(node, 0), [&](auto tag) { return zip<F, decltype(tag), int64_t>(node); });
}

/// An integer divisor of 0 is a fault.
template <class F>
KernelOrReason division(const executor::NodeSpec& node) {
  const DType dtype = input_dtype(node, 0);
  if (is_small_float(dtype)) return zip<F, float, float>(node);
  if (dtype == DType::f64) return zip<F, double, double>(node);
  if (dtype == DType::u64) return checked_zip<DividingBy<F>, uint64_t>(node);
  return checked_zip<DividingBy<F>, int64_t>(node);
}

KernelOrReason remainder(const executor::NodeSpec& node) {
  if (node.attributes->flag("fmod")) return division<functors::TruncMod>(node);
  const DType dtype = input_dtype(node, 0);
  if (is_float(dtype)) return declined("Mod: floats only with fmod");
  if (dtype == DType::u64) return checked_zip<DividingBy<functors::FloorMod>, uint64_t>(node);
  return checked_zip<DividingBy<functors::FloorMod>, int64_t>(node);
}

/// A power with a float on either side is computed in f64 (two f32 in f32); of integers, modulo 2^64.
KernelOrReason power(const executor::NodeSpec& node) {
  const DType base = input_dtype(node, 0);
  const DType exponent = input_dtype(node, 1);
  if (is_small_float(base) && is_small_float(exponent)) return zip<functors::Pow, float, float>(node);
  if (is_float(base) || is_float(exponent)) return zip<functors::Pow, double, double>(node);
  if (exponent != DType::u64) return checked_zip<WholePower, int64_t>(node);
  return zip<functors::Pow, uint64_t, uint64_t>(node);
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
      return division<functors::Div>(node);
    case OpKind::Mod:
      return remainder(node);
    case OpKind::PRelu:
      return arithmetic<functors::PRelu>(node);
    case OpKind::Pow:
      return power(node);
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
