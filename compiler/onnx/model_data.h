#pragma once

#include <deque>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "compiler/onnx/check.h"
#include "compiler/onnx/external_data.h"
#include "compiler/onnx/initializers.h"
#include "compiler/onnx/model.h"
#include "compiler/onnx/proto.h"

namespace mpc::onnx_io {

/// A node of the main graph after model-local functions were inlined.
struct FlatNode {
  const pb::NodeProto* node;
  std::string name;      // unique in the model
  std::string origin;    // `name (Op)` of the node in the file
  Opsets const* opsets;  // those it is written in: the model's, or its function's
};

/// What a Model holds. Built by load(), then constant.
struct Model::Data {
  ModelInfo info;
  Limits limits;
  pb::ModelProto proto;  // as in the file
  std::unique_ptr<ExternalFiles> files;
  ModelWeights weights;
  std::vector<InitializerInfo> initializers;
  /// Float tensors that nodes without operands make (Constant, ConstantOfShape) and that are read as weights: their
  /// names.
  std::map<std::string, bool> generated;     // name -> trainable
  std::vector<std::string> generated_names;  // in file order
  /// Float initializers that are buffers, masks or tables, not parameters.
  std::set<std::string> untrained;

  std::vector<FlatNode> nodes;  // operands before use
  std::deque<pb::NodeProto> inlined;
  std::deque<Opsets> opsets;
  /// Names of values, of the file and of inlined functions.
  std::unordered_set<std::string> value_names;
  /// The operators that read a value, by its name: those of nodes and of the graphs within them; "" for a result of the
  /// model or of such a graph.
  std::unordered_map<std::string, std::set<std::string>> readers;
};

/// Fills nodes, inlined and opsets from the checked proto.
void flatten(Model::Data& data);
/// Fills readers. @pre flatten was called.
void find_readers(Model::Data& data);
/// Fills untrained. @pre readers and weights are filled. O(bytes of the candidates).
void find_untrained(Model::Data& data);
/// Fills generated, and their contents in weights.
void find_generated_parameters(Model::Data& data);

}  // namespace mpc::onnx_io
