#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "compiler/base/checked.h"
#include "compiler/onnx/import_rules.h"

// Einsum as transposes, matrix products and sums. Operands are multiplied from left to right; in each product a label
// is one of
//   batch       in both operands, and needed later      -> a leading dimension of both matrices
//   own         in one operand, and needed later        -> rows of the left matrix, columns of the right one
//   contracted  in both, and not needed later           -> the inner dimension
// and what is in one operand and not needed later is summed beforehand. "Needed" is what a later operand or the result
// has. Every choice depends on the equation alone, never on sizes: a smaller micro-batch gets the same nodes.
// Not supported: a label twice in one operand (a diagonal), and dimensions of size 1 that stand for a larger one.

namespace mpc::onnx_io::rules {
namespace {

/// A letter; dimension -k from the end of what "..." stands for is -k, in every operand the same.
using Label = int;
using Labels = std::vector<Label>;

struct Term {
  Slot slot;
  Labels labels;  // one per dimension
};

bool has(const Labels& labels, Label label) {
  return std::ranges::find(labels, label) != labels.end();
}

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// The parts of the equation without blanks: one per operand, and the result when it is stated.
struct Equation {
  std::vector<std::string> terms;
  std::optional<std::string> result;
};

Equation parse(const OnnxNode& node) {
  std::string text = node.text("equation", "");
  std::erase(text, ' ');
  Equation equation;
  if (const size_t arrow = text.find("->"); arrow != std::string::npos) {
    equation.result = text.substr(arrow + 2);
    text.resize(arrow);
  }
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    equation.terms.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return equation;
}

/// The labels of a term whose "..." stands for `ellipsis_rank` dimensions.
Labels labels_of(const OnnxNode& node, const std::string& term, int ellipsis_rank) {
  Labels labels;
  for (size_t i = 0; i < term.size(); ++i) {
    if (is_letter(term[i])) {
      labels.push_back(term[i]);
    } else if (term.compare(i, 3, "...") == 0 && std::ranges::none_of(labels, [](Label label) { return label < 0; })) {
      for (int k = ellipsis_rank; k > 0; --k) labels.push_back(-k);
      i += 2;
    } else {
      node.fail(ErrorId::M031, fmt::format("'{}' in its equation is no list of letters with one '...'", term));
    }
  }
  return labels;
}

int letters_in(const std::string& term) {
  return static_cast<int>(std::ranges::count_if(term, is_letter));
}

/// The result when the equation does not state it: what "..." stands for, then every letter that occurs once, sorted.
Labels implied_result(const std::vector<Term>& terms, int ellipsis_rank) {
  std::map<Label, int> uses;
  for (const Term& term : terms) {
    for (const Label label : term.labels) ++uses[label];
  }
  Labels labels;
  for (int k = ellipsis_rank; k > 0; --k) labels.push_back(-k);
  for (const auto& [label, count] : uses) {
    if (label > 0 && count == 1) labels.push_back(label);
  }
  return labels;
}

class Product {
 public:
  Product(Importer& importer, const OnnxNode& node, std::map<Label, int64_t> sizes)
      : importer_(importer), node_(node), sizes_(std::move(sizes)) {}

  /// Sums over the labels that are not in `kept`.
  Term sum_out(const Term& term, const Labels& kept, std::string_view what) const {
    std::vector<int64_t> axes;
    Term rest{term.slot, {}};
    for (size_t i = 0; i < term.labels.size(); ++i) {
      if (has(kept, term.labels[i])) {
        rest.labels.push_back(term.labels[i]);
      } else {
        axes.push_back(static_cast<int64_t>(i));
      }
    }
    if (axes.empty()) return term;
    rest.slot = importer_.emit(node_, OpKind::ReduceSum, {term.slot}, {{"axes", axes}, {"keepdims", int64_t{0}}}, what);
    return rest;
  }

  std::vector<int64_t> permutation(const Labels& from, const Labels& to) const {
    std::vector<int64_t> perm;
    for (const Label label : to) perm.push_back(std::ranges::find(from, label) - from.begin());
    return perm;
  }

  Term multiply(const Term& left, const Term& right, const Labels& needed, const std::string& what) const {
    Labels batch;
    Labels contracted;
    Labels rows;
    Labels columns;
    for (const Label label : left.labels) {
      (!has(right.labels, label) ? rows : has(needed, label) ? batch : contracted).push_back(label);
    }
    for (const Label label : right.labels) {
      if (!has(left.labels, label)) columns.push_back(label);
    }
    // Without a batch the rows may stay several dimensions: the right operand is one matrix for all of them.
    const bool merges_rows = !batch.empty() || rows.empty();
    std::vector<Labels> left_groups = merges_rows ? std::vector<Labels>{rows} : each(rows);
    left_groups.push_back(contracted);
    const Slot a = matrices(left, batch, left_groups, what + "/left");
    const Slot b = matrices(right, batch, {contracted, columns}, what + "/right");
    const Slot product = importer_.emit(node_, OpKind::MatMul, {a, b}, {}, what);
    Term result{product, batch};
    result.labels.insert(result.labels.end(), rows.begin(), rows.end());
    result.labels.insert(result.labels.end(), columns.begin(), columns.end());
    const bool is_split = (!merges_rows || rows.size() == 1) && columns.size() == 1;
    if (is_split) return result;
    require_rank(result.labels.size());
    std::vector<int64_t> shape;
    for (const Label label : result.labels) shape.push_back(sizes_.at(label));
    result.slot = importer_.reshape(node_, product, shape, what + "/result");
    return result;
  }

 private:
  void require_rank(size_t rank) const {
    if (rank > static_cast<size_t>(kMaxRank))
      node_.fail(ErrorId::M046,
                 fmt::format("a product within it has rank {}, at most {} is supported", rank, kMaxRank));
  }

  static std::vector<Labels> each(const Labels& labels) {
    std::vector<Labels> groups;
    for (const Label label : labels) groups.push_back({label});
    return groups;
  }

  /// The operand as (batch..., group, group...): each group of labels is one dimension.
  Slot matrices(const Term& term, const Labels& batch, const std::vector<Labels>& groups,
                const std::string& what) const {
    Labels order = batch;
    std::vector<int64_t> shape;
    for (const Label label : batch) shape.push_back(sizes_.at(label));
    bool is_merged = false;
    for (const Labels& group : groups) {
      int64_t size = 1;
      for (const Label label : group) {
        order.push_back(label);
        const auto product = checked_mul(size, sizes_.at(label));
        if (!product) node_.fail(ErrorId::M051, "a dimension of a product within it is above 2^63");
        size = *product;
      }
      shape.push_back(size);
      is_merged = is_merged || group.size() != 1;
    }
    require_rank(shape.size());
    Slot slot = term.slot;
    if (order != term.labels) {
      slot = importer_.emit(node_, OpKind::Transpose, {slot}, {{"perm", permutation(term.labels, order)}},
                            what + "_transposed");
    }
    return is_merged ? importer_.reshape(node_, slot, shape, what) : slot;
  }

  Importer& importer_;
  const OnnxNode& node_;
  std::map<Label, int64_t> sizes_;
};

}  // namespace

void einsum(Importer& importer, OnnxNode& node) {
  const Equation equation = parse(node);
  if (std::ranges::find(node.inputs, kAbsent) != node.inputs.end()) node.fail(ErrorId::M022, "an input is absent");
  if (equation.terms.size() != node.inputs.size()) {
    node.fail(ErrorId::M031,
              fmt::format("its equation is for {} operands, it has {}", equation.terms.size(), node.inputs.size()));
  }
  std::vector<Term> terms;
  std::map<Label, int64_t> sizes;
  int ellipsis_rank = 0;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const Shape& shape = importer.type(node.inputs[i]).shape;
    const std::string& text = equation.terms[i];
    const int rest = shape.rank() - letters_in(text);
    const Labels labels = labels_of(node, text, std::max(rest, 0));
    if (static_cast<int>(labels.size()) != shape.rank()) {
      node.fail(ErrorId::M032,
                fmt::format("'{}' in its equation does not fit operand {} of shape {}", text, i, to_string(shape)));
    }
    for (int axis = 0; axis < shape.rank(); ++axis) {
      const Label label = labels[static_cast<size_t>(axis)];
      if (std::ranges::count(labels, label) > 1)
        node.fail(ErrorId::M046, fmt::format("'{}' in its equation takes a diagonal, which is not supported", text));
      const int64_t size = sizes.emplace(label, shape[axis]).first->second;
      if (size == shape[axis]) continue;
      const bool broadcasts = size == 1 || shape[axis] == 1;
      node.fail(broadcasts ? ErrorId::M046 : ErrorId::M032,
                fmt::format("dimension {} of operand {} is {}, an earlier operand says {}{}", axis, i, shape[axis],
                            size, broadcasts ? "; broadcasting within Einsum is not supported" : ""));
    }
    if (text.find("...") != std::string::npos) ellipsis_rank = std::max(ellipsis_rank, rest);
    terms.push_back({node.inputs[i], labels});
  }
  const Labels result =
      equation.result ? labels_of(node, *equation.result, ellipsis_rank) : implied_result(terms, ellipsis_rank);
  for (const Label label : result) {
    if (!sizes.contains(label) || std::ranges::count(result, label) > 1)
      node.fail(ErrorId::M031, fmt::format("the result '{}' has a label twice, or one that no operand has",
                                           equation.result.value_or("")));
  }

  const Product product(importer, node, sizes);
  Term total = terms[0];
  for (size_t i = 0; i < terms.size(); ++i) {
    Labels needed = result;
    for (size_t later = i + 1; later < terms.size(); ++later)
      needed.insert(needed.end(), terms[later].labels.begin(), terms[later].labels.end());
    const std::string what = fmt::format("product{}", i);
    if (i == 0) {
      total = product.sum_out(total, needed, "sum0");
      continue;
    }
    Labels kept = needed;
    kept.insert(kept.end(), total.labels.begin(), total.labels.end());
    total = product.multiply(total, product.sum_out(terms[i], kept, fmt::format("sum{}", i)), needed, what);
    // What only the left operand had, and only this right one needed, is contracted; nothing else is left over.
  }
  if (total.labels == result) return importer.bind(node, 0, total.slot);
  importer.emit_results(node, OpKind::Transpose, {total.slot}, {{"perm", product.permutation(total.labels, result)}});
}

}  // namespace mpc::onnx_io::rules
