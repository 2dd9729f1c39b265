#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mpc/namespace.h"
#include "mpc/tensor.h"

namespace mpc::v1 {

/// Bounds on what a model file may ask for. A file beyond one of them is refused with Error(M051).
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
  /// When not empty: external data may be reached through links that stay below this directory.
  std::string external_root = {};
};

/// A model input or output as the file declares it. A dimension is a number, a symbol ("batch") or unknown ("?").
struct DeclaredTensor {
  std::string name;
  std::string dtype;  // "f32"; empty for a type mpc has no tensors of
  bool has_shape = false;
  std::vector<std::string> dims;
};

/// How shapes that the file leaves open are bound.
struct Bindings {
  std::map<std::string, int64_t> dims = {};                       // symbolic dimensions by name
  std::map<std::string, std::vector<int64_t>> input_shapes = {};  // shapes of inputs, for the whole batch
  std::map<std::string, Tensor> known_inputs = {};                // content of inputs on which shapes depend
  std::optional<int64_t> batch = {};  // rows of a step; empty: what the rest or the model says
};

/// One operator and how often it occurs.
struct OpUse {
  std::string op;
  int64_t count = 0;
  double flops = 0;
  bool is_supported = true;
  bool is_differentiable = true;
};

/// A node that mpc cannot import, or cannot train through.
struct NodeProblem {
  std::string node;
  std::string op;
  std::string reason;
};

/// What a model consists of, for one batch of the bound shapes.
struct ModelReport {
  std::string path;
  std::string sha256;
  std::string producer;
  int64_t ir_version = 0;
  int64_t opset = 0;
  std::vector<DeclaredTensor> inputs;
  std::vector<DeclaredTensor> outputs;
  std::map<std::string, std::string> metadata;
  std::vector<std::string> open_dims;  // symbols that nothing binds yet
  bool is_complete = false;            // false: what follows could not be computed, see unsupported and open_dims
  std::string incomplete_reason;
  int64_t nodes = 0;
  int64_t parameters = 0;  // elements
  int64_t parameter_bytes = 0;
  int64_t activation_bytes = 0;  // everything the nodes make
  double flops = 0;              // forward, a multiply and an add are two
  int64_t batch = 0;
  std::vector<OpUse> ops;                // most frequent first
  std::vector<NodeProblem> unsupported;  // forward
  std::vector<NodeProblem> not_differentiable;
};

/// A model file that was read, checked and converted to one opset. Immutable and cheap to copy: copies share the
/// content (shared_ptr: plans and sessions made from it may outlive the variable). Safe to use from several threads.
class Model {
 public:
  /// @throws Error(M010, M012) for the file, Error(M020..M026) for what is malformed, Error(M042), Error(M051).
  static Model load(const std::string& path, const Limits& limits = {});

  const std::string& path() const;
  std::vector<DeclaredTensor> inputs() const;
  std::vector<DeclaredTensor> outputs() const;
  /// Counts and sizes; never throws for a model that mpc cannot run: the report says why. @throws Error(M003) for bad
  /// bindings.
  ModelReport inspect(const Bindings& bindings = {}) const;
  /// Imports the model for the bound shapes and throws what is wrong with it or unsupported.
  /// @throws Error(M030..M046); Error(M043) for a shape that nothing binds.
  void check(const Bindings& bindings = {}) const;
  /// The placement stored in the file as standard ONNX annotations: the device names and the stage (device) of every
  /// annotated node. Empty when there is none. @throws Error(M026) when the annotations are inconsistent.
  struct Annotation {
    std::string configuration;
    std::vector<std::string> devices;
    std::map<std::string, int> stage_of_node;
  };
  std::optional<Annotation> annotation() const;

  /// Of mpc's own sources.
  struct Impl;
  explicit Model(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  const Impl& impl() const { return *impl_; }

 private:
  std::shared_ptr<const Impl> impl_;
};

}  // namespace mpc::v1
