#include "tests/goldens/goldens.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <stdexcept>

namespace mpc::test {

std::vector<double> Goldens::numbers(std::string_view tensor) const {
  const SafetensorsEntry* entry = file_.find(tensor);
  if (entry == nullptr) throw std::runtime_error(file_.path() + " has no tensor '" + std::string(tensor) + "'");
  std::vector<std::byte> bytes(static_cast<size_t>(entry->bytes()));
  file_.read(*entry, 0, bytes);
  std::vector<double> result(static_cast<size_t>(entry->shape.elements()));
  const auto width = static_cast<size_t>(dtype_bytes(entry->dtype));
  for (size_t i = 0; i < result.size(); ++i) result[i] = read_number(entry->dtype, &bytes[i * width]);
  return result;
}

Golden Goldens::read(std::string_view tensor) const {
  const std::vector<double> sums = numbers(std::string(tensor) + "#sums");
  return {numbers(tensor), static_cast<int64_t>(sums.at(0)), static_cast<int64_t>(sums.at(1)), sums.at(2), sums.at(3),
          sums.at(4)};
}

size_t Goldens::count(std::string_view prefix) const {
  return static_cast<size_t>(std::ranges::count_if(file_.entries(), [&](const SafetensorsEntry& entry) {
    return entry.name.starts_with(prefix) && !entry.name.ends_with("#sums");
  }));
}

std::vector<double> sample_of(const Literal& actual, const Golden& golden) {
  if (actual.shape().elements() != golden.elements) {
    throw std::runtime_error(std::to_string(actual.shape().elements()) + " elements instead of " +
                             std::to_string(golden.elements));
  }
  std::vector<double> sample;
  for (int64_t i = 0; i < golden.elements; i += golden.stride) sample.push_back(actual.number(i));
  return sample;
}

double distance(const Literal& actual, const Golden& golden) {
  const std::vector<double> sample = sample_of(actual, golden);
  if (sample.size() != golden.sample.size()) throw std::runtime_error("the sample is not what its stride says");
  double largest_error = 0;
  for (size_t i = 0; i < sample.size(); ++i) {
    const double error = std::abs(sample[i] - golden.sample[i]);
    largest_error = std::max(largest_error, error);
  }
  double sum = 0;
  double squares = 0;
  for (int64_t i = 0; i < golden.elements; ++i) {
    const double number = actual.number(i);
    sum += number;
    squares += number * number;
  }
  const auto count = static_cast<double>(golden.elements);
  const double norm_error = std::abs(std::sqrt(squares) - golden.norm) / std::sqrt(count);
  const double sum_error = std::abs(sum - golden.sum) / count;
  if (!std::isfinite(squares)) return std::numeric_limits<double>::infinity();
  const double error = std::max({largest_error, norm_error, sum_error});
  if (golden.largest == 0) return error == 0 ? 0 : std::numeric_limits<double>::infinity();
  return error / golden.largest;
}

}  // namespace mpc::test
