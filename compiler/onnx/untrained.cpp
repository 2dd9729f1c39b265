#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <span>

#include "compiler/onnx/model_data.h"

// Float initializers that are no parameters. ONNX does not tell the two apart; three things do:
//  - torch.export says of every initializer what it was in the network, in the metadata of the value's type
//  information:
//    PARAMETER, BUFFER or CONSTANT_TENSOR (torch.onnx documentation, "Metadata"). Its word counts before all that
//    follows.
//  - An additive mask: read by Add alone, and every number is 0 or so low that exp() of it is 0. No bias is trained
//  there.
//  - The tables of rotary positions: two tables of one shape whose squares add up to one everywhere, the cosine's first
//    row all ones and the sine's all zeros (RoFormer, arXiv:2104.09864, section 3.2). No two parameters are so related.

namespace mpc::onnx_io {
namespace {

constexpr std::string_view kKindKey = "pkg.torch.export.graph_signature.InputSpec.kind";
// Exporters of all frameworks mask with -1e4 (f16) or lower; e^-1e4 is 0 in every float type.
constexpr double kMasked = -1e4;
// Tables are small beside weights: what is larger is not looked into.
constexpr int64_t kMostBytes = int64_t{64} << 20;

/// What the exporter says: true for a parameter, false for a buffer or constant, nothing when it is silent.
std::optional<bool> marked_kind(const pb::ValueInfoProto& value) {
  for (const auto& property : value.metadata_props()) {
    if (property.key() == kKindKey && property.value() == "PARAMETER") return true;
    if (property.key() == kKindKey && (property.value() == "BUFFER" || property.value() == "CONSTANT_TENSOR"))
      return false;
  }
  return std::nullopt;
}

/// The numbers of an f32 tensor from front to end in pieces, until `take` says false. @return whether it never did.
template <class Take>
bool every_number(const TensorContent& content, const ExternalFiles* files, Take take) {
  std::array<float, 1024> piece{};
  const int64_t elements = content.shape.elements();
  for (int64_t at = 0; at < elements; at += static_cast<int64_t>(piece.size())) {
    const auto count = static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(piece.size()), elements - at));
    const std::span<float> numbers(piece.data(), count);
    read_content(content, files, at * static_cast<int64_t>(sizeof(float)), std::as_writable_bytes(numbers));
    if (!std::ranges::all_of(numbers, take)) return false;
  }
  return true;
}

bool is_additive_mask(const Model::Data& data, const std::string& name, const TensorContent& content) {
  const auto readers = data.readers.find(name);
  if (readers == data.readers.end() || readers->second != std::set<std::string>{"Add"}) return false;
  bool masks = false;
  return every_number(content, data.files.get(),
                      [&](float number) {
                        masks = masks || number <= kMasked;
                        return number == 0 || number <= kMasked;
                      }) &&
         masks;
}

enum class Wave : uint8_t { none, cosine, sine };

/// What the first row says: position 0.
Wave wave_of(const TensorContent& content, const ExternalFiles* files) {
  if (content.shape.rank() < 2 || content.shape.elements() == 0) return Wave::none;
  // Leading dimensions of 1 are broadcast ones.
  int axis = 0;
  while (axis + 1 < content.shape.rank() && content.shape[axis] == 1) ++axis;
  constexpr int64_t kFewest = 2;  // rows: a single row of ones is no table
  if (content.shape[axis] < kFewest || axis + 1 == content.shape.rank()) return Wave::none;
  std::vector<float> row(static_cast<size_t>(content.shape.elements() / content.shape[axis]));
  read_content(content, files, 0, std::as_writable_bytes(std::span(row)));
  const auto all = [&](float value) { return std::ranges::all_of(row, [&](float x) { return x == value; }); };
  return all(1) ? Wave::cosine : all(0) ? Wave::sine : Wave::none;
}

bool are_waves(const TensorContent& cosine, const TensorContent& sine, const ExternalFiles* files) {
  constexpr double kRounding = 1e-3;  // tables that were rounded to bf16 and back
  if (cosine.shape != sine.shape) return false;
  std::vector<float> other(static_cast<size_t>(sine.shape.elements()));
  read_content(sine, files, 0, std::as_writable_bytes(std::span(other)));
  size_t i = 0;
  return every_number(cosine, files, [&](float x) {
    const double sum = static_cast<double>(x) * x + static_cast<double>(other[i]) * other[i];
    ++i;
    return std::abs(sum - 1) <= kRounding;
  });
}

}  // namespace

void find_untrained(Model::Data& data) {
  std::set<std::string> parameters;
  const auto read_mark = [&](const pb::ValueInfoProto& value) {
    const std::optional<bool> is_parameter = marked_kind(value);
    if (is_parameter) (*is_parameter ? parameters : data.untrained).insert(value.name());
  };
  for (const auto& value : data.proto.graph().value_info()) read_mark(value);
  for (const auto& value : data.proto.graph().input()) read_mark(value);
  std::vector<std::pair<std::string, const TensorContent*>> cosines;
  std::vector<std::pair<std::string, const TensorContent*>> sines;
  for (const InitializerInfo& initializer : data.initializers) {
    const TensorContent* content = data.weights.find(initializer.name);
    if (content == nullptr || content->dtype != DType::f32 || content->bytes() > kMostBytes) continue;
    if (parameters.contains(initializer.name) || data.untrained.contains(initializer.name)) continue;
    if (is_additive_mask(data, initializer.name, *content)) data.untrained.insert(initializer.name);
    const Wave wave = wave_of(*content, data.files.get());
    if (wave == Wave::cosine) cosines.emplace_back(initializer.name, content);
    if (wave == Wave::sine) sines.emplace_back(initializer.name, content);
  }
  for (const auto& [cosine, cosine_content] : cosines) {
    for (const auto& [sine, sine_content] : sines) {
      if (!are_waves(*cosine_content, *sine_content, data.files.get())) continue;
      data.untrained.insert({cosine, sine});
    }
  }
}

}  // namespace mpc::onnx_io
