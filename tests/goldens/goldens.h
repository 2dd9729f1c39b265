#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/literal.h"
#include "compiler/base/safetensors.h"

// Reads what make_goldens.py stored, and says how far a tensor is from it.

namespace mpc::test {

/// A stored tensor: a sample of its elements, and sums over all of them.
struct Golden {
  std::vector<double> sample;  // elements 0, stride, 2 stride, ...
  int64_t stride = 1;
  int64_t elements = 0;
  double sum = 0;
  double norm = 0;     // L2
  double largest = 0;  // magnitude
};

/// A file of them.
class Goldens {
 public:
  explicit Goldens(const std::string& path) : file_(path) {}
  /// @throws std::runtime_error when there is no such tensor.
  Golden read(std::string_view tensor) const;
  bool has(std::string_view tensor) const { return file_.find(tensor) != nullptr; }
  /// How many tensors have a name that begins so.
  size_t count(std::string_view prefix) const;

 private:
  std::vector<double> numbers(std::string_view tensor) const;
  SafetensorsFile file_;
};

/// The elements of `actual` that the golden holds a sample of. @throws std::runtime_error when the sizes differ.
std::vector<double> sample_of(const Literal& actual, const Golden& golden);

/// The distance of a tensor from the golden, as a multiple of the golden's largest magnitude: the largest of
/// - the error of any element of the sample;
/// - the error of the L2 norm over all elements, divided by the root of their number: no larger than the largest error
///   of an element;
/// - the error of the sum over all elements, divided by their number: no larger either.
/// So when every element is right within a bound, so is this. The sums see the elements beside the sample: one wrong
/// element of n that is as large as the norm is a distance of at least norm / (sqrt(n) largest).
/// Zero when the golden is all zeros and the tensor too; infinite when only the golden is, or for a NaN.
double distance(const Literal& actual, const Golden& golden);

}  // namespace mpc::test
