#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>

#include "compiler/base/error.h"
#include "compiler/base/literal.h"
#include "compiler/base/weights.h"
#include "compiler/onnx/external_data.h"
#include "compiler/onnx/proto.h"

namespace mpc::onnx_io {

/// A checked tensor and where its bytes are: in one of the fields of a TensorProto, in external data, or in memory.
struct TensorContent {
  DType dtype = DType::f32;
  Shape shape;
  const pb::TensorProto* proto = nullptr;
  std::optional<ExternalRegion> external;
  std::optional<Literal> literal;

  int64_t bytes() const { return byte_size(shape, dtype); }
};

/// Checks type, dims and the amount of data of a tensor, allocating nothing. `files` may be null: then external data is
/// refused. `fault` is the id of an inconsistent tensor (M023 in models, M065 in tensor files).
/// @return nothing for a consistent tensor of a type or rank that mpc has not. @throws Error(fault, M010, M012, M024,
/// M046, M051).
std::optional<TensorContent> check_tensor(const pb::TensorProto& tensor, ExternalFiles* files, const std::string& where,
                                          ErrorId fault = ErrorId::M023);

/// Checks a sparse tensor and makes it dense. @throws Error(M023, M041, M051: more than `max_bytes` when dense).
TensorContent densify(const pb::SparseTensorProto& sparse, int64_t max_bytes, const std::string& where);

/// Copies bytes [offset, offset + out.size()) of the tensor, little-endian and row-major.
void read_content(const TensorContent& content, const ExternalFiles* files, int64_t offset, std::span<std::byte> out);
/// The whole tensor. @pre content.bytes() is small enough to hold.
Literal to_literal(const TensorContent& content, const ExternalFiles* files);

/// The weights of a model by name.
class ModelWeights : public WeightSource {
 public:
  void read(const std::string& name, int64_t offset, std::span<std::byte> out) const override;
  DType dtype(const std::string& name) const override { return known(name).dtype; }

  void add(const std::string& name, TensorContent content) { contents_.emplace(name, std::move(content)); }
  const TensorContent* find(const std::string& name) const;
  void set_files(const ExternalFiles* files) { files_ = files; }

 private:
  const TensorContent& known(const std::string& name) const;

  const ExternalFiles* files_ = nullptr;
  std::map<std::string, TensorContent> contents_;
};

}  // namespace mpc::onnx_io
