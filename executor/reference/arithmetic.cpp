// Elementwise kernels with two or three operands and broadcasting. The scalar maths is in executor/functors/binary.h.

#include <algorithm>

#include "executor/functors/binary.h"
#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

// y[i] = f(a[i], b[i]), computed in C and stored from R. The result may take the bytes of an operand of its own type.
template <class C, class R, class F>
void zip(const KernelCall& call, F&& f) {
  std::array<C, kChunk> a;
  std::array<C, kChunk> b;
  std::array<R, kChunk> out;
  const Shape& shape = call.outputs[0].shape;
  const int64_t elements = shape.elements();
  for (int64_t begin = 0; begin < elements; begin += kChunk) {
    const size_t count = static_cast<size_t>(std::min(kChunk, elements - begin));
    load_broadcast<C>(call.inputs[0], shape, begin, std::span(a.data(), count));
    load_broadcast<C>(call.inputs[1], shape, begin, std::span(b.data(), count));
    for (size_t i = 0; i < count; ++i) out[i] = f(a[i], b[i]);
    store<R>(call.outputs[0], begin, std::span<const R>(out.data(), count));
  }
}

template <class F>
void arithmetic(const KernelCall& call) {
  with_compute_type(call.inputs[0].dtype, [&](auto tag) {
    using C = decltype(tag);
    zip<C, C>(call, [](C a, C b) { return F::value(a, b); });
  });
}

// For operators of which an integer divisor may not be 0.
template <class F>
void division(OpKind op, const KernelCall& call) {
  with_compute_type(call.inputs[0].dtype, [&](auto tag) {
    using C = decltype(tag);
    zip<C, C>(call, [op](C a, C b) {
      if constexpr (std::is_integral_v<C>) {
        if (b == 0) fail(op, "an integer is divided by 0");
      }
      return F::value(a, b);
    });
  });
}

template <class F>
void predicate(const KernelCall& call) {
  with_compute_type(call.inputs[0].dtype, [&](auto tag) {
    using C = decltype(tag);
    zip<C, int64_t>(call, [](C a, C b) { return static_cast<int64_t>(F::value(a, b)); });
  });
}

}  // namespace

void Add(const KernelCall& call) {
  arithmetic<functors::Add>(call);
}
void Sub(const KernelCall& call) {
  arithmetic<functors::Sub>(call);
}
void Mul(const KernelCall& call) {
  arithmetic<functors::Mul>(call);
}
void Max(const KernelCall& call) {
  arithmetic<functors::Max>(call);
}
void Min(const KernelCall& call) {
  arithmetic<functors::Min>(call);
}
void PRelu(const KernelCall& call) {
  arithmetic<functors::PRelu>(call);
}
void Div(const KernelCall& call) {
  division<functors::Div>(OpKind::Div, call);
}

void Mod(const KernelCall& call) {
  if (call.attributes.flag("fmod")) return division<functors::TruncMod>(OpKind::Mod, call);
  if (call.inputs[0].dtype == DType::u64) {
    return zip<uint64_t, uint64_t>(call, [](uint64_t a, uint64_t b) {
      if (b == 0) fail(OpKind::Mod, "an integer is divided by 0");
      return functors::FloorMod::value(a, b);
    });
  }
  zip<int64_t, int64_t>(call, [](int64_t a, int64_t b) {
    if (b == 0) fail(OpKind::Mod, "an integer is divided by 0");
    return functors::FloorMod::value(a, b);
  });
}

// Integers to an integer power are exact modulo 2^64; if either is a float, the power is computed in double and, for an
// integer base, truncated towards zero.
void Pow(const KernelCall& call) {
  if (is_float(call.inputs[0].dtype) || is_float(call.inputs[1].dtype)) {
    return zip<double, double>(call, [](double a, double b) { return functors::Pow::value(a, b); });
  }
  if (call.inputs[1].dtype == DType::u64) {
    return zip<uint64_t, uint64_t>(call, [](uint64_t a, uint64_t b) { return functors::Pow::value(a, b); });
  }
  zip<int64_t, int64_t>(call, [](int64_t a, int64_t b) {
    if (a == 0 && b < 0) fail(OpKind::Pow, "0 is raised to the power " + std::to_string(b));
    return functors::Pow::value(a, b);
  });
}

void And(const KernelCall& call) {
  predicate<functors::And>(call);
}
void Or(const KernelCall& call) {
  predicate<functors::Or>(call);
}
void Xor(const KernelCall& call) {
  predicate<functors::Xor>(call);
}
void Equal(const KernelCall& call) {
  predicate<functors::Equal>(call);
}
void Greater(const KernelCall& call) {
  predicate<functors::Greater>(call);
}
void GreaterOrEqual(const KernelCall& call) {
  predicate<functors::GreaterOrEqual>(call);
}
void Less(const KernelCall& call) {
  predicate<functors::Less>(call);
}
void LessOrEqual(const KernelCall& call) {
  predicate<functors::LessOrEqual>(call);
}

void Where(const KernelCall& call) {
  const TensorView& y = call.outputs[0];
  const int rank = y.shape.rank();
  std::array<Index, 3> steps;
  for (size_t i = 0; i < 3; ++i) steps[i] = broadcast_strides(call.inputs[i].shape, y.shape);
  int64_t position = 0;
  for_each_index(y.shape, [&](const Index& index) {
    const size_t chosen = integer(call.inputs[0], offset(index, steps[0], rank)) != 0 ? 1 : 2;
    copy_element(y, position++, call.inputs[chosen], offset(index, steps[chosen], rank));
  });
}

}  // namespace mpc::reference
