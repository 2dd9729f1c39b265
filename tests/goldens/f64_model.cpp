#include "tests/goldens/f64_model.h"

#include <onnx/onnx_pb.h>

#include <cstring>
#include <fstream>
#include <stdexcept>

namespace mpc::test {
namespace {

namespace pb = ONNX_NAMESPACE;

void widen(pb::TensorProto& tensor) {
  if (tensor.data_type() != pb::TensorProto::FLOAT) return;
  if (tensor.data_location() == pb::TensorProto::EXTERNAL) throw std::runtime_error(tensor.name() + " is external");
  tensor.set_data_type(pb::TensorProto::DOUBLE);
  for (const float number : tensor.float_data()) tensor.add_double_data(number);
  tensor.clear_float_data();
  const std::string narrow = tensor.raw_data();
  if (narrow.empty()) return;
  std::string wide(narrow.size() * 2, '\0');
  for (size_t i = 0; i < narrow.size() / sizeof(float); ++i) {
    float number = 0;
    std::memcpy(&number, narrow.data() + i * sizeof(float), sizeof(float));
    const double same = number;
    std::memcpy(wide.data() + i * sizeof(double), &same, sizeof(double));
  }
  tensor.set_raw_data(wide);
}

void widen(pb::ValueInfoProto& value) {
  auto& type = *value.mutable_type()->mutable_tensor_type();
  if (type.elem_type() == pb::TensorProto::FLOAT) type.set_elem_type(pb::TensorProto::DOUBLE);
}

void widen(pb::NodeProto& node) {
  for (pb::AttributeProto& attribute : *node.mutable_attribute()) {
    if (attribute.has_t()) widen(*attribute.mutable_t());
    if (node.op_type() == "Cast" && attribute.name() == "to" && attribute.i() == pb::TensorProto::FLOAT)
      attribute.set_i(pb::TensorProto::DOUBLE);
  }
}

}  // namespace

void make_f64(const std::string& path) {
  pb::ModelProto model;
  {
    std::ifstream file(path, std::ios::binary);
    if (!model.ParseFromIstream(&file)) throw std::runtime_error(path + " is not an ONNX file");
  }
  pb::GraphProto& graph = *model.mutable_graph();
  for (pb::TensorProto& tensor : *graph.mutable_initializer()) widen(tensor);
  for (pb::ValueInfoProto& value : *graph.mutable_input()) widen(value);
  for (pb::ValueInfoProto& value : *graph.mutable_output()) widen(value);
  graph.clear_value_info();  // types of the values between, which follow from the others
  for (pb::NodeProto& node : *graph.mutable_node()) widen(node);
  std::ofstream file(path, std::ios::binary);
  if (!model.SerializeToOstream(&file)) throw std::runtime_error("cannot write " + path);
}

}  // namespace mpc::test
