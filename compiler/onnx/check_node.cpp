#include "compiler/onnx/check_node.h"

#include <algorithm>
#include <limits>
#include <unordered_set>

#include <fmt/format.h>
#include <onnx/defs/schema.h>

#include "compiler/base/error.h"
#include "compiler/onnx/initializers.h"
#include "compiler/onnx/types.h"

namespace mpc::onnx_io {
namespace {

std::string attribute_where(const pb::NodeProto& node, const pb::AttributeProto& attribute) {
  return fmt::format("{} attribute \"{}\"", describe(node), escaped(attribute.name(), 200));
}

/// Which payload fields an attribute of `type` may carry is fixed by the format: a reader that trusts one and a checker
/// that looked at another disagree.
bool has_stray_payload(const pb::AttributeProto& a) {
  using A = pb::AttributeProto;
  const auto type = a.type();
  return (a.has_f() && type != A::FLOAT) || (a.has_i() && type != A::INT) || (a.has_s() && type != A::STRING) ||
         (a.has_t() && type != A::TENSOR) || (a.has_g() && type != A::GRAPH) ||
         (a.has_sparse_tensor() && type != A::SPARSE_TENSOR) || (a.has_tp() && type != A::TYPE_PROTO) ||
         (a.floats_size() != 0 && type != A::FLOATS) || (a.ints_size() != 0 && type != A::INTS) ||
         (a.strings_size() != 0 && type != A::STRINGS) || (a.tensors_size() != 0 && type != A::TENSORS) ||
         (a.graphs_size() != 0 && type != A::GRAPHS) || (a.sparse_tensors_size() != 0 && type != A::SPARSE_TENSORS) ||
         (a.type_protos_size() != 0 && type != A::TYPE_PROTOS);
}

void check_arity(const pb::NodeProto& node, const pb::OpSchema& schema) {
  const auto range = [](int low, int high) {
    return high == std::numeric_limits<int>::max() ? fmt::format("{} or more", low)
           : low == high                           ? fmt::format("{}", low)
                                                   : fmt::format("{} to {}", low, high);
  };
  if (node.input_size() < schema.min_input() || node.input_size() > schema.max_input()) {
    throw Error(ErrorId::M022, describe(node),
                fmt::format("has {} inputs, {} takes {}", node.input_size(), schema.Name(),
                            range(schema.min_input(), schema.max_input())));
  }
  if (node.output_size() < schema.min_output() || node.output_size() > schema.max_output()) {
    throw Error(ErrorId::M022, describe(node),
                fmt::format("has {} outputs, {} gives {}", node.output_size(), schema.Name(),
                            range(schema.min_output(), schema.max_output())));
  }
  for (int i = 0; i < node.input_size() && i < static_cast<int>(schema.inputs().size()); ++i) {
    if (node.input(i).empty() && schema.inputs()[static_cast<size_t>(i)].GetOption() == pb::OpSchema::Single) {
      throw Error(ErrorId::M022, describe(node), fmt::format("input {} is required", i));
    }
  }
  for (int i = 0; i < node.output_size() && i < static_cast<int>(schema.outputs().size()); ++i) {
    if (node.output(i).empty() && schema.outputs()[static_cast<size_t>(i)].GetOption() == pb::OpSchema::Single) {
      throw Error(ErrorId::M022, describe(node), fmt::format("output {} is required", i));
    }
  }
}

}  // namespace

void check_attributes(const pb::NodeProto& node, ExternalFiles& files) {
  std::unordered_set<std::string_view> names;
  for (const auto& attribute : node.attribute()) {
    if (attribute.name().empty()) throw Error(ErrorId::M031, describe(node), "an attribute has no name");
    if (!is_utf8(attribute.name()))
      throw Error(ErrorId::M020, describe(node),
                  fmt::format("the attribute name '{}' is not valid UTF-8", escaped(attribute.name(), 100)));
    if (!names.insert(attribute.name()).second)
      throw Error(ErrorId::M031, attribute_where(node, attribute), "is there twice");
    if (!pb::AttributeProto::AttributeType_IsValid(attribute.type()) ||
        attribute.type() == pb::AttributeProto::UNDEFINED) {
      throw Error(ErrorId::M031, attribute_where(node, attribute), "has no type that ONNX defines");
    }
    if (has_stray_payload(attribute))
      throw Error(ErrorId::M031, attribute_where(node, attribute), "holds a value that is not of its type");
    if (attribute.has_t()) check_tensor(attribute.t(), &files, attribute_where(node, attribute));
    for (const auto& tensor : attribute.tensors()) check_tensor(tensor, &files, attribute_where(node, attribute));
  }
}

void check_against_schema(const pb::NodeProto& node, const Opsets& opsets) {
  const std::string domain(canonical_domain(node.domain()));
  const auto version = opsets.find(domain);
  if (version == opsets.end())
    throw Error(ErrorId::M021, describe(node), fmt::format("its domain '{}' is not imported", escaped(domain, 100)));
  const auto newest = static_cast<int>(std::min<int64_t>(version->second, std::numeric_limits<int>::max()));
  const pb::OpSchema* schema = pb::OpSchemaRegistry::Schema(node.op_type(), newest, domain);
  if (schema == nullptr) return;
  if (schema->deprecated())
    throw Error(ErrorId::M042, describe(node),
                fmt::format("{} was withdrawn in opset {}", schema->Name(), schema->SinceVersion()));
  check_arity(node, *schema);
  for (const auto& attribute : node.attribute()) {
    const auto known = schema->attributes().find(attribute.name());
    const bool is_private = attribute.name().starts_with("__");  // ONNX leaves such names to tools
    if (is_private) continue;
    if (known == schema->attributes().end())
      throw Error(ErrorId::M031, attribute_where(node, attribute),
                  fmt::format("is unknown to {} of opset {}", schema->Name(), version->second));
    if (attribute.type() != known->second.type) {
      throw Error(ErrorId::M031, attribute_where(node, attribute),
                  fmt::format("is {}, {} is needed", pb::AttributeProto::AttributeType_Name(attribute.type()),
                              pb::AttributeProto::AttributeType_Name(known->second.type)));
    }
  }
  for (const auto& [name, specification] : schema->attributes()) {
    const auto is_it = [&](const auto& attribute) { return attribute.name() == name; };
    if (specification.required && std::none_of(node.attribute().begin(), node.attribute().end(), is_it)) {
      throw Error(ErrorId::M031, describe(node), fmt::format("attribute '{}' is required", name));
    }
  }
}

}  // namespace mpc::onnx_io
