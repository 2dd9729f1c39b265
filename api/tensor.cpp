#include "mpc/tensor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "api/impl.h"
#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/idx.h"
#include "compiler/base/npy.h"
#include "compiler/base/random.h"
#include "compiler/base/safetensors.h"
#include "compiler/base/text.h"

namespace mpc {
namespace api {

static_assert(static_cast<int>(v1::DType::boolean) == static_cast<int>(DType::boolean));
static_assert(static_cast<int>(v1::DType::bf16) == static_cast<int>(DType::bf16));
static_assert(static_cast<int>(v1::DType::u64) == static_cast<int>(DType::u64));

v1::DType public_dtype(DType dtype) {
  return static_cast<v1::DType>(dtype);
}
DType internal_dtype(v1::DType dtype) {
  return static_cast<DType>(dtype);
}

v1::Tensor to_tensor(const Literal& literal) {
  return {public_dtype(literal.dtype()), literal.shape().to_vector(), literal.dense()};
}

Literal to_literal(const v1::Tensor& tensor, const std::string& where) {
  const std::optional<Shape> shape = checked_shape(tensor.shape, internal_dtype(tensor.dtype));
  if (!shape) {
    throw Error(ErrorId::M004, where, fmt::format("{} is not the shape of a tensor", v1::shape_text(tensor.shape)),
                fmt::format("at most {} dimensions, none negative", kMaxRank));
  }
  const int64_t bytes = byte_size(*shape, internal_dtype(tensor.dtype));
  if (bytes != static_cast<int64_t>(tensor.bytes.size())) {
    throw Error(ErrorId::M004, where,
                fmt::format("{} of {} are {} bytes, but {} are given", v1::to_string(tensor.dtype),
                            v1::shape_text(tensor.shape), bytes, tensor.bytes.size()));
  }
  return Literal(internal_dtype(tensor.dtype), *shape, tensor.bytes);
}

}  // namespace api

namespace v1 {
namespace {

/// @throws Error(M004).
int64_t bytes_of(DType dtype, const std::vector<int64_t>& shape) {
  const std::optional<Shape> checked = checked_shape(shape, api::internal_dtype(dtype));
  if (!checked) throw Error(ErrorId::M004, "tensor", fmt::format("{} is not the shape of a tensor", shape_text(shape)));
  return byte_size(*checked, api::internal_dtype(dtype));
}

bool is_floating(DType dtype) {
  return is_float(api::internal_dtype(dtype));
}

/// A number that names a text, for streams of random numbers (FNV-1a).
uint64_t text_number(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

std::string index_text(int64_t index, const std::vector<int64_t>& shape) {
  std::string text;
  for (size_t axis = shape.size(); axis-- > 0;) {
    text = fmt::format("{}{}", index % shape[axis], text.empty() ? "" : ", " + text);
    index /= shape[axis];
  }
  return "[" + text + "]";
}

}  // namespace

int64_t element_bytes(DType dtype) {
  return dtype_bytes(api::internal_dtype(dtype));
}
std::string_view to_string(DType dtype) {
  return dtype_name(api::internal_dtype(dtype));
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t dim : shape) text += (text.empty() ? "" : ", ") + std::to_string(dim);
  return "(" + text + ")";
}

Tensor Tensor::zeros(DType dtype, std::vector<int64_t> shape) {
  const int64_t bytes = bytes_of(dtype, shape);
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.bytes.resize(static_cast<size_t>(bytes));
  return tensor;
}

Tensor Tensor::from_bytes(DType dtype, std::vector<int64_t> shape, std::span<const std::byte> bytes) {
  const int64_t expected = bytes_of(dtype, shape);
  if (expected != static_cast<int64_t>(bytes.size())) {
    throw Error(ErrorId::M004, "tensor",
                fmt::format("{} of shape {} are {} bytes, but {} are given", v1::to_string(dtype), shape_text(shape),
                            expected, bytes.size()));
  }
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.bytes.assign(bytes.begin(), bytes.end());
  return tensor;
}

int64_t Tensor::elements() const {
  return static_cast<int64_t>(bytes.size()) / element_bytes(dtype);
}

int64_t Tensor::row_bytes() const {
  if (shape.empty()) throw Error(ErrorId::M004, "tensor", "is a scalar, expected one with a dimension for its rows");
  return shape[0] == 0 ? 0 : static_cast<int64_t>(bytes.size()) / shape[0];
}

double Tensor::number(int64_t index) const {
  return read_number(api::internal_dtype(dtype), bytes.data() + index * element_bytes(dtype));
}

Tensor Tensor::reshaped(std::vector<int64_t> new_shape) const {
  return from_bytes(dtype, std::move(new_shape), bytes);
}

Tensor Tensor::converted(DType to) const {
  if (to == dtype) return *this;
  Tensor result = zeros(to, shape);
  const mpc::DType from_type = api::internal_dtype(dtype);
  const mpc::DType to_type = api::internal_dtype(to);
  const bool is_exact = !is_floating(dtype) && !is_floating(to);
  for (int64_t i = 0; i < elements(); ++i) {
    const std::byte* source = bytes.data() + i * element_bytes(dtype);
    std::byte* target = result.bytes.data() + i * element_bytes(to);
    if (is_exact) {
      write_integer(to_type, target, read_integer(from_type, source));
    } else {
      write_number(to_type, target, read_number(from_type, source));
    }
  }
  return result;
}

void Tensor::require_dtype(DType expected) const {
  if (dtype == expected) return;
  throw Error(ErrorId::M004, "tensor",
              fmt::format("its elements are {}, but are read as {}", v1::to_string(dtype), v1::to_string(expected)));
}

Tensor load_tensor(const std::string& path) {
  std::array<std::byte, 6> front{};
  {
    const InputFile file(path);
    const size_t count = std::min(front.size(), static_cast<size_t>(file.bytes()));
    file.read(0, std::span(front).first(count));
  }
  const auto byte = [&](size_t i) { return std::to_integer<int>(front[i]); };
  if (byte(0) == 0x93 && byte(1) == 'N') return api::to_tensor(read_npy(path));
  // IDX starts with two zero bytes, which no TensorProto does (there is no field 0); gzip is taken for IDX, which MNIST
  // ships so.
  const bool is_idx = (byte(0) == 0 && byte(1) == 0) || (byte(0) == 0x1f && byte(1) == 0x8b);
  if (is_idx) return api::to_tensor(read_idx(path));
  return api::to_tensor(onnx_io::read_tensor_file(path));
}

size_t count_safetensors(const std::string& path) {
  return SafetensorsFile(path).entries().size();
}

void save_tensor(const std::string& path, const Tensor& tensor) {
  write_npy(path, api::to_literal(tensor, path));
}

Tensor random_tensor(DType dtype, const std::vector<int64_t>& shape, uint64_t seed, std::string_view stream,
                     int64_t bound) {
  Tensor tensor = Tensor::zeros(dtype, shape);
  if (dtype == DType::boolean) bound = 2;
  const RandomStream random{seed, text_number(stream), 0, 0};
  const int64_t width = element_bytes(dtype);
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    const uint32_t word = random_word(random, i);
    std::byte* element = tensor.bytes.data() + i * width;
    if (is_floating(dtype)) {
      write_number(api::internal_dtype(dtype), element, 2.0 * unit_float(word) - 1.0);
    } else {
      // The upper bits of the product: uniform up to 2^-32, without the bias of a remainder for bounds that are small.
      write_integer(api::internal_dtype(dtype), element,
                    static_cast<int64_t>(
                        (uint64_t{word} * static_cast<uint64_t>(std::min<int64_t>(bound, int64_t{1} << 31))) >> 32));
    }
  }
  return tensor;
}

Difference compare(const Tensor& actual, const Tensor& expected, double rtol, double atol) {
  Difference difference;
  if (actual.dtype != expected.dtype || actual.shape != expected.shape) {
    difference.is_equal = false;
    difference.first_mismatch = fmt::format("is {}{}, expected {}{}", to_string(actual.dtype), shape_text(actual.shape),
                                            to_string(expected.dtype), shape_text(expected.shape));
    return difference;
  }
  const bool is_exact = !is_floating(expected.dtype);
  const int64_t width = element_bytes(expected.dtype);
  for (int64_t i = 0; i < expected.elements(); ++i) {
    const double a = actual.number(i);
    const double e = expected.number(i);
    bool is_close;
    if (is_exact) {  // the bytes decide: large integers do not fit a double
      is_close = std::memcmp(actual.bytes.data() + i * width, expected.bytes.data() + i * width,
                             static_cast<size_t>(width)) == 0;
    } else if (std::isnan(a) || std::isnan(e)) {
      is_close = std::isnan(a) && std::isnan(e);
    } else if (std::isinf(a) || std::isinf(e)) {
      is_close = a == e;
    } else {
      is_close = std::abs(a - e) <= atol + rtol * std::abs(e);
    }
    if (std::isfinite(a) && std::isfinite(e)) {
      difference.max_abs_error = std::max(difference.max_abs_error, std::abs(a - e));
      if (e != 0) difference.max_rel_error = std::max(difference.max_rel_error, std::abs(a - e) / std::abs(e));
    }
    if (is_close) continue;
    if (difference.mismatches++ == 0) {
      difference.first_mismatch =
          fmt::format("{}: {}, expected {}", index_text(i, expected.shape), number_text(a), number_text(e));
    }
  }
  difference.is_equal = difference.mismatches == 0;
  return difference;
}

std::vector<int64_t> shuffled_rows(int64_t rows, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(rows));
  std::iota(order.begin(), order.end(), int64_t{0});
  const RandomStream random{seed, text_number("shuffle"), epoch, 0};
  for (int64_t i = rows - 1; i > 0; --i) {
    const PhiloxBlock block = random_block(random, i);
    const uint64_t word = (uint64_t{block.word[0]} << 32) | block.word[1];
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(word % static_cast<uint64_t>(i + 1))]);
  }
  return order;
}

Tensor take_rows(const Tensor& tensor, std::span<const int64_t> rows) {
  const int64_t row_bytes = tensor.row_bytes();
  Tensor result;
  result.dtype = tensor.dtype;
  result.shape = tensor.shape;
  result.shape[0] = static_cast<int64_t>(rows.size());
  result.bytes.resize(static_cast<size_t>(row_bytes) * rows.size());
  std::byte* target = result.bytes.data();
  for (const int64_t row : rows) {
    if (row < 0 || row >= tensor.shape[0]) {
      throw Error(ErrorId::M004, "tensor", fmt::format("row {} is not there, it has {}", row, tensor.shape[0]));
    }
    if (row_bytes > 0) std::memcpy(target, tensor.bytes.data() + row * row_bytes, static_cast<size_t>(row_bytes));
    target += row_bytes;
  }
  return result;
}

}  // namespace v1
}  // namespace mpc
