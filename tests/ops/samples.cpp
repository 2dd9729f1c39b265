#include <algorithm>
#include <cmath>
#include <iterator>
#include <random>

#include "compiler/base/error.h"
#include "tests/ops/sample.h"

namespace mpc::samples {
namespace {

// FNV-1a: a seed that depends on nothing but the text.
uint64_t hash_of(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return hash;
}

// Uniform in [0, 1). std::uniform_real_distribution may differ between standard libraries, the engine may not.
double next_uniform(std::mt19937_64& random) {
  return static_cast<double>(random() >> 11) * 0x1p-53;
}

Literal filled(const Operand& operand, DType dtype, std::mt19937_64& random) {
  const int64_t elements = operand.shape.elements();
  const int64_t step = dtype_bytes(dtype);
  std::vector<std::byte> bytes(static_cast<size_t>(elements * step));
  MPC_CHECK(operand.numbers.empty() || static_cast<int64_t>(operand.numbers.size()) == elements,
            "an operand of a sample has a number for each element");
  for (int64_t i = 0; i < elements; ++i) {
    double value = operand.low + (operand.high - operand.low) * next_uniform(random);
    if (!is_float(dtype)) value = std::floor(value);
    if (!operand.numbers.empty()) value = operand.numbers[static_cast<size_t>(i)];
    write_number(dtype, bytes.data() + i * step, value);
  }
  return Literal(dtype, operand.shape, std::move(bytes));
}

SampleList collect() {
  SampleList all;
  for (const auto list : {attention_samples, elementwise_samples, reduction_samples, training_samples, linear_samples,
                          convolution_samples, pooling_samples, normalization_samples, loss_samples, recurrent_samples,
                          shape_samples, index_samples}) {
    SampleList part = list();
    std::ranges::move(part, std::back_inserter(all));
  }
  return all;
}

}  // namespace

const SampleList& all_samples() {
  static const SampleList kSamples = collect();
  return kSamples;
}

std::vector<std::optional<Literal>> operands_of(const Sample& sample, Floats floats) {
  std::mt19937_64 random(hash_of(std::string(op_name(sample.op)) + "/" + sample.name));
  std::vector<std::optional<Literal>> operands;
  for (const auto& operand : sample.inputs) {
    if (!operand) {
      operands.emplace_back();
      continue;
    }
    const bool is_widened = floats == Floats::f64 && operand->dtype == DType::f32;
    operands.push_back(filled(*operand, is_widened ? DType::f64 : operand->dtype, random));
  }
  return operands;
}

}  // namespace mpc::samples
