#pragma once

#include "compiler/base/attributes.h"
#include "compiler/base/file.h"
#include "models/weights.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace mpc::zoo {

/// The name of a value of the graph.
using Value = std::string;
/// A dimension of a graph input or output: a number, or a symbol.
using Dim = std::variant<int64_t, std::string>;

/// What a model's build function starts from.
struct BuilderOptions {
  std::string model_name;
  int64_t opset = 21;
  Dim batch;
  uint64_t seed = 0;
  bool weights = true;
  std::map<std::string, int64_t> sizes;  // every size of the model, by name
};

/// Builds one ONNX graph, in topological order. Names carry the scopes that are open: a Gemm in scope "layer1" is the
/// node "layer1/Gemm", its value "layer1/Gemm_out", its weight "layer1/weight". Weights are declared here and drawn
/// when the model is saved. One thread.
class Builder {
 public:
  explicit Builder(BuilderOptions options);
  ~Builder();
  Builder(const Builder&) = delete;
  Builder& operator=(const Builder&) = delete;

  /// Closes its scope at the end of its life.
  class Scope {
   public:
    Scope(Builder& builder, std::string_view name);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Builder& builder_;
    size_t outer_length_;
  };
  [[nodiscard]] Scope scope(std::string_view name) { return Scope(*this, name); }

  /// The value of the size flag `name`.
  int64_t size(std::string_view name) const;
  Dim batch() const { return options_.batch; }
  /// Ends the build because the sizes do not fit each other. @throws Error(M003)
  [[noreturn]] void refuse(const std::string& why) const;

  /// The graph input `name`.
  Value float_input(std::string_view name, const std::vector<Dim>& dims);
  Value int_input(std::string_view name, const std::vector<Dim>& dims);
  /// Makes `value`, the output of a node, the float graph output `name`.
  void output(const Value& value, std::string_view name, const std::vector<Dim>& dims);

  /// A node with one output; an empty input is one that is left out.
  Value node(std::string_view op, const std::vector<Value>& inputs, const Attributes& attributes = {});
  /// A node with `count` outputs.
  std::vector<Value> nodes(std::string_view op, const std::vector<Value>& inputs, const Attributes& attributes,
                           int count);

  /// A trainable f32 weight `scope/name`. @throws Error(M003) when the model's weights reach kMaxTensorBytes.
  Value weight(std::string_view name, const std::vector<int64_t>& dims, const Init& init);
  /// An int64 initializer `scope/name` of rank 1, or of rank 0.
  Value ints(std::string_view name, const std::vector<int64_t>& values);
  Value integer(std::string_view name, int64_t value);
  /// A Constant node, which nobody trains, with f32 elements of rank 1, or of rank 0.
  Value floats(const std::vector<float>& values);
  Value number(float value);

  /// Adds an entry to the model's metadata.
  void metadata(std::string_view key, std::string_view value);

  /// Draws the weights and writes the model; more than `inline_weight_bytes` of them go to `<path>.data`.
  /// @throws Error(M011, M012)
  void save(const std::string& path, int64_t inline_weight_bytes);

 private:
  struct State;  // the protobuf side, in builder.cpp

  std::string scoped(std::string_view name) const;
  std::string unique_name(std::string_view last);
  void embed_weights();
  void append_external_weights(AtomicFile& file, const std::string& location);
  void append_model(AtomicFile& file);

  BuilderOptions options_;
  std::string scope_;  // "" or "a/b/"
  std::unique_ptr<State> state_;
};

}  // namespace mpc::zoo
