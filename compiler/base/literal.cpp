#include "compiler/base/literal.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "compiler/base/error.h"
#include "compiler/base/half.h"

namespace mpc {
namespace {

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

template <class T>
void store(std::byte* p, T value) {
  std::memcpy(p, &value, sizeof(T));
}

// A float outside the integer's range has no defined cast in C++: it is clamped to the range, and NaN becomes 0.
template <class T>
T to_integer_clamped(double value) {
  constexpr double kLow = static_cast<double>(std::numeric_limits<T>::min());
  constexpr double kHigh = static_cast<double>(std::numeric_limits<T>::max());
  if (!(value == value)) return 0;
  if (value <= kLow) return std::numeric_limits<T>::min();
  if (value >= kHigh) return std::numeric_limits<T>::max();
  return static_cast<T>(value);
}

// The float between which and its neighbours no bit of `value` is forgotten ("round to odd"): rounding it once more to
// a type of at most 22 significant bits gives what rounding `value` itself would give.
float narrowed(double value) {
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || value != value) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (std::abs(static_cast<double>(nearest)) > std::abs(value)) --bits;
  return std::bit_cast<float>(bits | 1u);
}

}  // namespace

double read_number(DType dtype, const std::byte* p) {
  switch (dtype) {
    case DType::f32:
      return load<float>(p);
    case DType::f64:
      return load<double>(p);
    case DType::f16:
      return to_float(load<f16>(p));
    case DType::bf16:
      return to_float(load<bf16>(p));
    default:
      return dtype == DType::u64 ? static_cast<double>(load<uint64_t>(p)) : static_cast<double>(read_integer(dtype, p));
  }
}

int64_t read_integer(DType dtype, const std::byte* p) {
  switch (dtype) {
    case DType::i8:
      return load<int8_t>(p);
    case DType::i16:
      return load<int16_t>(p);
    case DType::i32:
      return load<int32_t>(p);
    case DType::i64:
      return load<int64_t>(p);
    case DType::u8:
      return load<uint8_t>(p);
    case DType::u16:
      return load<uint16_t>(p);
    case DType::u32:
      return load<uint32_t>(p);
    case DType::u64:
      return static_cast<int64_t>(load<uint64_t>(p));
    case DType::boolean:
      return load<uint8_t>(p) != 0;
    default:
      return to_integer_clamped<int64_t>(read_number(dtype, p));
  }
}

void write_number(DType dtype, std::byte* p, double value) {
  switch (dtype) {
    case DType::f32:
      return store(p, static_cast<float>(value));
    case DType::f64:
      return store(p, value);
    case DType::f16:
      return store(p, to_f16(narrowed(value)));
    case DType::bf16:
      return store(p, to_bf16(narrowed(value)));
    case DType::i8:
      return store(p, to_integer_clamped<int8_t>(value));
    case DType::i16:
      return store(p, to_integer_clamped<int16_t>(value));
    case DType::i32:
      return store(p, to_integer_clamped<int32_t>(value));
    case DType::i64:
      return store(p, to_integer_clamped<int64_t>(value));
    case DType::u8:
      return store(p, to_integer_clamped<uint8_t>(value));
    case DType::u16:
      return store(p, to_integer_clamped<uint16_t>(value));
    case DType::u32:
      return store(p, to_integer_clamped<uint32_t>(value));
    case DType::u64:
      return store(p, to_integer_clamped<uint64_t>(value));
    case DType::boolean:
      return store(p, static_cast<uint8_t>(value != 0));
  }
}

void write_integer(DType dtype, std::byte* p, int64_t value) {
  switch (dtype) {
    case DType::i8:
      return store(p, static_cast<int8_t>(value));
    case DType::i16:
      return store(p, static_cast<int16_t>(value));
    case DType::i32:
      return store(p, static_cast<int32_t>(value));
    case DType::i64:
      return store(p, value);
    case DType::u8:
      return store(p, static_cast<uint8_t>(value));
    case DType::u16:
      return store(p, static_cast<uint16_t>(value));
    case DType::u32:
      return store(p, static_cast<uint32_t>(value));
    case DType::u64:
      return store(p, static_cast<uint64_t>(value));
    case DType::boolean:
      return store(p, static_cast<uint8_t>(value != 0));
    default:
      return write_number(dtype, p, static_cast<double>(value));
  }
}

Literal::Literal(DType dtype, Shape shape, std::vector<std::byte> bytes)
    : Literal(Content{dtype, shape, false, std::move(bytes)}) {
  MPC_CHECK(static_cast<int64_t>(stored().size()) == byte_size(shape, dtype), "a literal has the bytes of its shape");
}

Literal Literal::splat(DType dtype, Shape shape, std::span<const std::byte> element) {
  MPC_CHECK(static_cast<int64_t>(element.size()) == dtype_bytes(dtype), "a splat stores one element");
  return Literal(Content{dtype, shape, true, {element.begin(), element.end()}});
}

const Literal::Content& Literal::content() const {
  static const Content none;
  return content_ ? *content_ : none;
}

const std::byte* Literal::element(int64_t index) const {
  return stored().data() + (is_splat() ? 0 : index * dtype_bytes(dtype()));
}

Literal Literal::scalar(DType dtype, double value) {
  std::vector<std::byte> bytes(static_cast<size_t>(dtype_bytes(dtype)));
  write_number(dtype, bytes.data(), value);
  return Literal(dtype, Shape{}, std::move(bytes));
}

Literal Literal::splat_number(DType dtype, Shape shape, double value) {
  std::vector<std::byte> bytes(static_cast<size_t>(dtype_bytes(dtype)));
  write_number(dtype, bytes.data(), value);
  return splat(dtype, shape, bytes);
}

Literal Literal::integers(const std::vector<int64_t>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return Literal(DType::i64, Shape{static_cast<int64_t>(values.size())}, {bytes.begin(), bytes.end()});
}

std::vector<std::byte> Literal::dense() const {
  if (!is_splat()) return {stored().begin(), stored().end()};
  std::vector<std::byte> out(static_cast<size_t>(byte_size(shape(), dtype())));
  const auto element = stored();
  for (size_t i = 0; i < out.size(); i += element.size())
    std::copy(element.begin(), element.end(), out.begin() + static_cast<std::ptrdiff_t>(i));
  return out;
}

double Literal::number(int64_t index) const {
  return read_number(dtype(), element(index));
}

int64_t Literal::integer(int64_t index) const {
  return read_integer(dtype(), element(index));
}

std::vector<int64_t> Literal::to_integers() const {
  std::vector<int64_t> out(static_cast<size_t>(shape().elements()));
  for (size_t i = 0; i < out.size(); ++i) out[i] = integer(static_cast<int64_t>(i));
  return out;
}

bool Literal::operator==(const Literal& other) const {
  if (content_ == other.content_) return true;
  return dtype() == other.dtype() && shape() == other.shape() && is_splat() == other.is_splat() &&
         std::ranges::equal(stored(), other.stored());
}

}  // namespace mpc
