#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mpc::zoo {

/// Weights up to this many bytes are kept in the model file: protobuf ends at 2 GiB, and the graph needs its share.
inline constexpr int64_t kInlineWeightBytes = 1'500'000'000;

/// What can be chosen about a sample model.
struct Options {
  /// The batch dimension of the inputs. Empty: a symbolic dimension named "batch", with the model's default batch in
  /// the model's metadata under "mpc.default_batch".
  std::optional<int64_t> batch = {};
  /// Seeds every weight; a weight depends only on the seed, its name and its shape, on any machine.
  uint64_t seed = 0;
  /// false: weights are ConstantOfShape nodes, so that the file is small and the sizes are the real ones.
  bool weights = true;
  /// The named sizes of the model (Entry::sizes) that differ from their defaults.
  std::map<std::string, int64_t> sizes = {};
  /// More bytes of weights than this go to `<file>.data` beside the model.
  int64_t inline_weight_bytes = kInlineWeightBytes;
};

/// A size of a model that can be chosen.
struct SizeFlag {
  std::string name;
  int64_t default_value;
  std::string help;
  int64_t min_value = 1;
  int64_t max_value = int64_t{1} << 20;
};

/// A sample model.
struct Entry {
  std::string name;
  std::string summary;
  std::vector<SizeFlag> sizes;
};

/// Every sample model, the small ones of the acceptance rows first.
const std::vector<Entry>& entries();

/// Writes the model `name` to `path` as ONNX; the file appears whole or not at all. Peak memory is the file's size plus
/// the graph; weights in `<file>.data` are streamed.
/// @throws Error(M002) for an unknown model or size, Error(M003) for a size or batch out of range, Error(M011, M012)
/// when the file cannot be written there.
void write(std::string_view name, const Options& options, const std::string& path);

}  // namespace mpc::zoo
