#include "compiler/onnx/fitting_input.h"

#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "compiler/base/error.h"

namespace mpc::onnx_io {
namespace {

constexpr size_t kFirstSpatialAxis = 2;
constexpr int64_t kMostExtent = 8192;  // few images are larger
// A search imports the model some twenty times, which must not make a refusal slow.
constexpr size_t kMostNodes = 10'000;
constexpr int64_t kMostFoldedBytes = int64_t{16} << 20;

class Search {
 public:
  Search(const Model::Data& data, const ImportOptions& options, const Evaluator& evaluator, const Importer& failed,
         std::string input)
      : data_(data), options_(options), evaluator_(evaluator), failed_(failed), input_(std::move(input)) {
    shape_ = failed.input_type(input_).shape.to_vector();
    for (size_t axis = kFirstSpatialAxis; axis < shape_.size(); ++axis) unit_ = std::gcd(unit_, shape_[axis]);
  }

  /// The smallest size that fits, as text.
  std::string run() {
    if (shape_.size() <= kFirstSpatialAxis || unit_ <= 0) return {};
    // The features grow with the size, so the smallest size that gives enough of them lies in (few, enough].
    const bool is_too_large = failed_.mismatch()->found > failed_.mismatch()->expected;
    int64_t few = is_too_large ? 0 : unit_;
    int64_t enough = unit_;
    while (!is_too_large && !has_enough(enough)) {
      few = enough;
      if (enough > kMostExtent / 2) return {};
      enough *= 2;
    }
    while (enough - few > 1) {
      const int64_t middle = few + (enough - few) / 2;
      (has_enough(middle) ? enough : few) = middle;
    }
    if (inner_of(enough) != failed_.mismatch()->expected) return {};
    return fmt::format("an input \"{}\" of {} instead of {}", escaped(input_, 200), extents_text(sized(enough)),
                       extents_text(shape_));
  }

 private:
  /// The shape with `size` for every unit_ of its extents.
  std::vector<int64_t> sized(int64_t size) const {
    std::vector<int64_t> shape = shape_;
    for (size_t axis = kFirstSpatialAxis; axis < shape.size(); ++axis) shape[axis] = shape[axis] / unit_ * size;
    return shape;
  }
  static std::string extents_text(const std::vector<int64_t>& shape) {
    return fmt::format("{}", fmt::join(shape.begin() + kFirstSpatialAxis, shape.end(), "x"));
  }

  bool has_enough(int64_t size) const { return inner_of(size).value_or(0) >= failed_.mismatch()->expected; }

  /// The inner dimension of the product's left operand for a size; nothing where the import ends before it.
  std::optional<int64_t> inner_of(int64_t size) const {
    const ProductMismatch& wanted = *failed_.mismatch();
    Importer importer(data_, options_, evaluator_);
    importer.force_input(input_, sized(size));
    try {
      importer.run();
      return wanted.expected;
    } catch (const Error& error) {
      if (error.id() == ErrorId::M700) throw;
      if (importer.mismatch() && importer.mismatch()->node == wanted.node) return importer.mismatch()->found;
    }
    return importer.has_imported(wanted.node) ? std::optional(wanted.expected) : std::nullopt;
  }

  const Model::Data& data_;
  const ImportOptions& options_;
  const Evaluator& evaluator_;
  const Importer& failed_;
  std::string input_;
  std::vector<int64_t> shape_;
  int64_t unit_ = 0;
};

}  // namespace

std::string fitting_input(const Model::Data& data, const ImportOptions& options, const Evaluator& evaluator,
                          const Importer& failed) {
  if (data.nodes.size() > kMostNodes || failed.folded_bytes() > kMostFoldedBytes) return {};
  for (const DeclaredValue& input : data.info.inputs) {
    if (options.known_inputs.contains(input.name)) continue;
    const std::string found = Search(data, options, evaluator, failed, input.name).run();
    if (!found.empty()) return found;
  }
  return {};
}

}  // namespace mpc::onnx_io
