#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "compiler/base/literal.h"
#include "compiler/base/weights.h"
#include "compiler/ir/graph.h"
#include "compiler/ops/evaluate.h"

// ONNX in and out. The only folder that sees protobuf; no protobuf type leaves it.

namespace mpc::onnx_io {

/// Bounds on what a file may ask for; each has a flag and a default from docs/cli.md.
struct Limits {
  int64_t model_bytes = (int64_t{1} << 31) - 1;
  int subgraph_depth = 32;
  int function_call_depth = 100;
  int64_t functions = 10'000;
  int64_t nodes = 1'000'000;
  int64_t attributes_per_node = 1000;
  int64_t values_per_node = 65'536;
  int64_t name_bytes = 4096;
  int64_t folded_constant_bytes = int64_t{64} << 20;
  int64_t folded_bytes_total = int64_t{1} << 30;
  /// One value of the graph, whoever computes it.
  int64_t value_bytes = (int64_t{1} << 40) - 1;
  /// When not empty: external data may be reached through links that stay below this directory.
  std::string external_root;
};

/// Initializers of more bytes do not stay in the model file: protobuf ends at 2 GiB, and everything else needs room
/// too.
inline constexpr int64_t kMaxInlineBytes = (int64_t{1} << 31) - (int64_t{64} << 20);

/// One dimension as the file states it: a number, a symbol, or neither.
struct DeclaredDim {
  int64_t value = -1;  // -1: not a number
  std::string symbol;
};

struct DeclaredValue {
  std::string name;
  std::optional<DType> dtype;  // nothing: a type mpc has no tensors of
  bool has_shape = false;
  std::vector<DeclaredDim> dims;
};

struct InitializerInfo {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};

/// What is known about a model before it is imported.
struct ModelInfo {
  std::string path;
  std::string sha256;  // of the model file and, by (location, offset, length, content), not of external data
  std::string graph_name;
  std::string producer;
  int64_t ir_version = 0;
  int64_t opset = 0;                  // of the default domain, as the file says
  std::vector<DeclaredValue> inputs;  // without those that are initializers
  std::vector<DeclaredValue> outputs;
  std::map<std::string, std::string> metadata;
};

/// A node that cannot be imported.
struct UnsupportedNode {
  std::string node;  // name, or the name of its first output
  std::string op;    // with the domain when it is not the default one
  std::string reason;
};

struct ImportOptions {
  /// Values of symbolic dimensions (--dim batch=32).
  std::map<std::string, int64_t> dims;
  /// Shapes of inputs that are given at run time; they bind symbols and override nothing that is a number.
  std::map<std::string, std::vector<int64_t>> input_shapes;
  /// Sets dimension 0 of every input whose dimension 0 is the batch: the symbol (or number) of dimension 0 of the first
  /// graph input. How a model is made to work on micro-batches.
  std::optional<int64_t> batch;
  /// Other symbols of dimension 0 that are the batch, too: some exporters name every input's by itself.
  std::set<std::string> batch_symbols = {};
  /// Content of inputs on which shapes depend; they are no longer inputs of the graph.
  std::map<std::string, Literal> known_inputs;
  /// Dropout and BatchNormalization as in training (batch statistics, running averages updated), or as in inference
  /// unless the node itself says training_mode = 1.
  enum class Mode : uint8_t { inference, training };
  Mode mode = Mode::inference;
};

/// A model file that was read, checked, inlined and converted to one opset. Immutable; import() may be called many
/// times.
class Model {
 public:
  /// Reads the file, checks it against `limits`, inlines functions, converts to the opset that compiler/ops implements.
  /// @throws Error(M010, M012, M020..M026, M042, M051).
  static Model load(const std::string& path, const Limits& limits = {});
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  const ModelInfo& info() const;
  /// All initializers, in file order.
  const std::vector<InitializerInfo>& initializers() const;
  /// Names of float tensors that the file writes as Constant or ConstantOfShape nodes and that import() makes
  /// parameters, because nodes read them as weights or they have 256 elements or more. weights() serves them too.
  const std::vector<std::string>& generated_parameters() const;
  /// Content of initializers, read lazily from the file or its external data. Lives as long as the model.
  const WeightSource& weights() const;

  /// The graph with static shapes. Shape arithmetic is folded with `evaluator`; operands that must be known when
  /// planning become attributes; nodes without a definition are expanded by their ONNX function body; float
  /// initializers read by nodes become parameters (trainable when float), small integer ones constants.
  /// @throws Error(M040) naming every unsupported node at once; Error(M043) for a dimension that is not bound, naming
  /// it and the flag that binds it; Error(M030..M034) for inconsistent nodes.
  Graph import(const ImportOptions& options, const Evaluator& evaluator) const;
  /// Every node that import() would refuse as unsupported, without throwing.
  std::vector<UnsupportedNode> unsupported(const ImportOptions& options, const Evaluator& evaluator) const;

  /// Writes the model as it was in the file (opset and names unchanged) with the contents of some initializers
  /// replaced. External data is written to `<path>.data` when the file had any, or when its initializers are more than
  /// `inline_bytes`, which protobuf could not hold. Both files appear, or neither.
  /// @throws Error(M011, M012).
  void save(const std::string& path, const std::vector<std::string>& replaced, const WeightSource& replacements,
            int64_t inline_bytes = kMaxInlineBytes) const;

  /// Where every ONNX node runs, by node name (inlined and converted form).
  struct Annotation {
    std::string configuration_name;  // mpc-<n>
    std::vector<std::string> device_names;
    std::map<std::string, int> stage_of_node;
  };
  /// Writes the model with the standard multi-device fields (IR version 11; CLI.md, "Standard ONNX annotations").
  void save_annotated(const std::string& path, const Annotation& annotation) const;
  /// The first device configuration stored in the file, checked; nothing when there is none. @throws Error(M026).
  std::optional<Annotation> annotation() const;

  /// Of this folder's files only.
  struct Data;

 private:
  explicit Model(std::unique_ptr<Data> data);
  std::unique_ptr<Data> data_;
};

/// A tensor stored as a TensorProto (input_0.pb of the ONNX test data). External data is refused. @throws Error(M010,
/// M065, M041).
Literal read_tensor_file(const std::string& path);

}  // namespace mpc::onnx_io
