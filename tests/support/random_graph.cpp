#include "tests/support/random_graph.h"

#include <cstring>
#include <vector>

#include "compiler/base/random.h"
#include "compiler/ops/builder.h"

namespace mpc::test {
namespace {

class Generator {
 public:
  explicit Generator(uint64_t seed) : state_(seed) {}
  /// A number in [0, bound).
  int below(int bound) { return static_cast<int>(next() % static_cast<uint64_t>(bound)); }

 private:
  uint64_t next() {
    state_ += 0x9E3779B97F4A7C15u;
    return mix_bits(state_);
  }
  uint64_t state_;
};

class GraphMaker {
 public:
  GraphMaker(uint64_t seed, int64_t rows, const RandomGraphOptions& options)
      : seed_(seed), random_(seed), rows_(rows), options_(options) {
    graph_.name = "random";
  }

  Graph run() {
    values_.push_back(graph_.add_input("x", DType::f32, Shape{rows_, 3 + random_.below(6)}));
    if (random_.below(3) == 0)
      values_.push_back(graph_.add_input("x2", DType::f32, Shape{rows_, 3 + random_.below(6)}));
    for (int step = 0; step < options_.steps; ++step) {
      if (options_.dropped.contains(step)) continue;
      random_ = Generator(mix_bits(mix_bits(seed_) + static_cast<uint64_t>(step)));
      add_random_node();
    }
    finish();
    return std::move(graph_);
  }

 private:
  int64_t width(ValueId id) const { return graph_.value(id).shape[1]; }

  // Recent values are read more often, so that the graph is deep, with skips.
  ValueId pick() {
    const int count = static_cast<int>(values_.size());
    const int back = random_.below(3) == 0 ? random_.below(count) : random_.below(std::min(count, 3));
    return values_[static_cast<size_t>(count - 1 - back)];
  }

  ValueId emit(OpKind op, std::vector<ValueId> inputs, Attributes attributes = {}, int outputs = 1) {
    NodeInfo info;
    info.name = std::string(op_name(op)) + "_" + std::to_string(graph_.node_count());
    for (int i = 0; i < outputs; ++i) info.output_names.push_back(info.name + (i == 0 ? "" : ":" + std::to_string(i)));
    last_ = append(graph_, op, std::move(inputs), std::move(attributes), std::move(info));
    return graph_.node(last_).outputs[0];
  }

  ValueId parameter(Shape shape) {
    const std::string name = "w" + std::to_string(next_parameter_++);
    return graph_.add_parameter(name, DType::f32, shape, name, true);
  }

  ValueId linear(ValueId x, int64_t out) {
    // Some weights are shared by two layers.
    for (const ValueId w : weights_) {
      const Shape& shape = graph_.value(w).shape;
      if (shape[0] == width(x) && shape[1] == out && random_.below(2) == 0) return emit(OpKind::MatMul, {x, w});
    }
    const ValueId w = parameter({width(x), out});
    weights_.push_back(w);
    if (random_.below(2) == 0) return emit(OpKind::MatMul, {x, w});
    return emit(OpKind::Gemm, {x, w, parameter({out})});
  }

  ValueId with_width(ValueId x, int64_t wanted) { return width(x) == wanted ? x : linear(x, wanted); }

  void add_random_node() {
    const ValueId x = pick();
    switch (random_.below(14)) {
      case 0:
      case 1:
      case 2:
        values_.push_back(linear(x, 2 + random_.below(8)));
        break;
      case 3:
        values_.push_back(emit(OpKind::Tanh, {x}));
        break;
      case 4:
        values_.push_back(emit(OpKind::Sigmoid, {x}));
        break;
      case 5:
        values_.push_back(emit(OpKind::Relu, {x}));
        break;
      case 6: {
        const ValueId other = pick();
        values_.push_back(emit(OpKind::Add, {x, with_width(other, width(x))}));
        break;
      }
      case 7: {
        const ValueId other = pick();
        values_.push_back(emit(OpKind::Mul, {x, with_width(other, width(x))}));
        break;
      }
      case 8:
        values_.push_back(emit(OpKind::Softmax, {x}, {{"axis", int64_t{1}}}));
        break;
      case 9:
        values_.push_back(emit(OpKind::LayerNormalization, {x, parameter({width(x)}), parameter({width(x)})},
                               {{"axis", int64_t{-1}}}));
        break;
      case 10:
        if (width(x) <= 12) values_.push_back(emit(OpKind::Concat, {x, pick()}, {{"axis", int64_t{1}}}));
        break;
      case 11:
        split(x);
        break;
      case 12:
        values_.push_back(emit(OpKind::Mul, {x, parameter({1, width(x)})}));
        break;
      case 13: {
        const ValueId mean =
            emit(OpKind::ReduceMean, {x}, {{"axes", std::vector<int64_t>{1}}, {"keepdims", int64_t{1}}});
        values_.push_back(emit(OpKind::Sub, {x, mean}));
        break;
      }
    }
  }

  void split(ValueId x) {
    if (width(x) < 2) return;
    const int64_t first = 1 + random_.below(static_cast<int>(width(x)) - 1);
    emit(OpKind::Split, {x}, {{"axis", int64_t{1}}, {"split", std::vector<int64_t>{first, width(x) - first}}}, 2);
    for (const ValueId output : graph_.node(last_).outputs) values_.push_back(output);
  }

  // Joins what nobody has read, so that nothing of the graph is dead.
  void finish() {
    const auto users = users_of(graph_);
    ValueId y = with_width(values_.back(), 4);
    for (size_t i = 0; i + 1 < values_.size(); ++i) {
      if (users[values_[i].index()].empty()) y = emit(OpKind::Add, {y, with_width(values_[i], 4)});
    }
    if (next_parameter_ == 0) y = linear(y, 4);
    graph_.outputs.push_back({"y", y});
  }

  uint64_t seed_;
  Generator random_;
  int64_t rows_;
  const RandomGraphOptions& options_;
  Graph graph_;
  std::vector<ValueId> values_;
  std::vector<ValueId> weights_;
  NodeId last_;
  int next_parameter_ = 0;
};

}  // namespace

Graph random_graph(uint64_t seed, int64_t rows, const RandomGraphOptions& options) {
  return GraphMaker(seed, rows, options).run();
}

RandomGraphOptions shrink(RandomGraphOptions options, const std::function<bool(const RandomGraphOptions&)>& fails) {
  for (bool changed = true; changed;) {
    changed = false;
    // From the last: later steps are the most likely to depend on others, and no other depends on them.
    for (int step = options.steps - 1; step >= 0; --step) {
      if (!options.dropped.insert(step).second) continue;
      if (fails(options)) {
        changed = true;
      } else {
        options.dropped.erase(step);
      }
    }
  }
  return options;
}

void SeededWeights::read(const std::string& name, int64_t offset, std::span<std::byte> out) const {
  uint64_t key = seed_;
  for (const char c : name) key = mix_bits(key ^ static_cast<unsigned char>(c));
  for (size_t i = 0; i + sizeof(float) <= out.size(); i += sizeof(float)) {
    const uint64_t bits = mix_bits(key + static_cast<uint64_t>(offset) + i);
    const float value = static_cast<float>(bits >> 40) * 0x1p-24f - 0.5f;
    std::memcpy(out.data() + i, &value, sizeof(float));
  }
}

}  // namespace mpc::test
