// Convolution and its two gradients on oneDNN in f32, one to three spatial dimensions, groups and dilations. oneDNN is
// asked for the layouts it likes best (channels in blocks); operands are reordered at the edges of the node, in the
// thread's scratch memory. Source of the layouts' gain: measured over the 53 convolutions of ResNet-50, blocked 102 ms,
// row-major 134 ms per image.

#include <optional>

#include "compiler/base/channels_last.h"
#include "compiler/base/checked.h"
#include "executor/cpu/factories.h"
#include "executor/cpu/onednn.h"

namespace mpc::cpu {
namespace {

using dnnl::memory;
using dnnl::prop_kind;

/// The sizes of a convolution as oneDNN wants them. Spatial dimensions in which nothing moves are left out: exporters
/// write a convolution over time as one over images that are one wide, for which oneDNN's kernels, which take a row of
/// pixels at a time, are three times slower (256 channels, 512 steps, a kernel of 5).
struct Geometry {
  Geometry(const NodeSpec& node, const Shape& x_shape, const Shape& w_shape, const Shape& y_shape)
      : x(x_shape.to_vector()), w(w_shape.to_vector()), y(y_shape.to_vector()) {
    const std::vector<int64_t>& pads = node.attributes->integers("pads");
    const size_t spatial = node.attributes->integers("strides").size();
    for (std::vector<int64_t>* sizes : {&x, &w, &y}) sizes->resize(2);
    for (size_t i = 0; i < spatial; ++i) {
      const auto axis = static_cast<int>(i) + 2;
      const bool is_last = i + 1 == spatial && x.size() == 2;
      const bool is_idle =
          x_shape[axis] == 1 && w_shape[axis] == 1 && y_shape[axis] == 1 && pads[i] == 0 && pads[spatial + i] == 0;
      if (is_idle && !is_last) continue;
      x.push_back(x_shape[axis]);
      w.push_back(w_shape[axis]);
      y.push_back(y_shape[axis]);
      strides.push_back(node.attributes->integers("strides")[i]);
      dilations.push_back(node.attributes->integers("dilations")[i] - 1);  // oneDNN counts the gaps
      pads_begin.push_back(pads[i]);
      pads_end.push_back(pads[spatial + i]);
    }
    const int64_t groups = node.attributes->integer("group");
    if (groups == 1) return;
    w.insert(w.begin(), groups);
    w[1] /= groups;
  }

  std::vector<int64_t> x, w, y, strides, dilations, pads_begin, pads_end;
};

dnnl::convolution_forward::primitive_desc forward_desc(const Geometry& g, bool has_bias, prop_kind kind) {
  const auto algorithm = dnnl::algorithm::convolution_direct;
  if (!has_bias) {
    return {{kind, algorithm, any_desc(g.x), any_desc(g.w), any_desc(g.y), g.strides, g.dilations, g.pads_begin,
             g.pads_end},
            caller_scratch(),
            cpu_engine()};
  }
  return {{kind, algorithm, any_desc(g.x), any_desc(g.w), plain_desc({g.y[1]}), any_desc(g.y), g.strides, g.dilations,
           g.pads_begin, g.pads_end},
          caller_scratch(),
          cpu_engine()};
}

std::string refusal(const NodeSpec& node) {
  if (is_channels_last(*node.attributes)) return "oneDNN convolution: only channels first";
  if (!all_of_type(node, DType::f32)) return "oneDNN convolution: only f32";
  if (has_empty_operand(node)) return "oneDNN convolution: an operand is empty";
  const size_t spatial = node.attributes->integers("strides").size();
  if (spatial < 1 || spatial > 3) return "oneDNN convolution: only 1 to 3 spatial dimensions";
  for (const int64_t pad : node.attributes->integers("pads")) {
    if (pad < 0) return "oneDNN convolution: no negative pads";
  }
  return {};
}

/// A primitive with two inputs, a result, and maybe a bias. A constant second input is reordered at the first run only.
class Convolution final : public Kernel {
 public:
  struct Argument {
    int id = 0;
    memory::desc wanted;
    memory::desc plain;
  };
  Convolution(dnnl::primitive primitive, const memory::desc& scratch, std::string_view name, const Argument& first,
              const Argument& second, const Argument& result, std::optional<memory::desc> bias, bool is_second_constant)
      : primitive_(std::move(primitive)),
        scratch_(scratch),
        name_(name),
        stream_(cpu_engine()),
        first_(first.wanted, first.plain, Operand::Direction::in),
        second_(second.wanted, second.plain, is_second_constant),
        result_(result.wanted, result.plain, Operand::Direction::out) {
    arguments_ = {{first.id, first_.memory()}, {second.id, second_.memory()}, {result.id, result_.memory()}};
    scratch_.add_to(arguments_);
    if (bias) {
      bias_ = unbound(*bias);
      arguments_.insert({DNNL_ARG_BIAS, bias_});
    }
  }

  void run(const KernelCall& call) override {
    const int64_t inputs = first_.scratch_bytes() + second_.scratch_bytes();
    const int64_t operands = inputs + result_.scratch_bytes();
    std::byte* scratch = thread_scratch(operands + scratch_.bytes()).data();
    first_.bind(call.inputs[0].data, scratch);
    second_.bind(call.inputs[1].data, scratch + first_.scratch_bytes());
    result_.bind(call.outputs[0].data, scratch + inputs);
    scratch_.bind(scratch + operands);
    if (bias_) bias_.set_data_handle(call.inputs[2].data);
    first_.reorder(stream_);
    second_.reorder(stream_);
    primitive_.execute(stream_, arguments_);
    result_.reorder(stream_);
    stream_.wait();
  }
  void forget_constants() override { second_.forget(); }
  int64_t kept_bytes() const override { return second_.kept_bytes(); }
  std::string_view name() const override { return name_; }

 private:
  dnnl::primitive primitive_;
  ScratchMemory scratch_;
  std::string_view name_;
  dnnl::stream stream_;
  Operand first_;
  KeptOperand second_;
  Operand result_;
  memory bias_;
  std::unordered_map<int, memory> arguments_;
};

}  // namespace

KernelOrReason onednn_conv(const NodeSpec& node) {
  if (std::string reason = refusal(node); !reason.empty()) return declined(reason);
  return try_onednn([&]() -> std::unique_ptr<Kernel> {
    const Geometry g(node, node.inputs[0].shape, node.inputs[1].shape, node.outputs[0].shape);
    const bool has_bias = has_input(node, 2);
    const auto desc = forward_desc(g, has_bias, prop_kind::forward_inference);
    std::optional<memory::desc> bias;
    if (has_bias) bias = desc.bias_desc();
    return std::make_unique<Convolution>(
        dnnl::convolution_forward(desc), desc.scratchpad_desc(), "cpu:onednn convolution",
        Convolution::Argument{DNNL_ARG_SRC, desc.src_desc(), plain_desc(g.x)},
        Convolution::Argument{DNNL_ARG_WEIGHTS, desc.weights_desc(), plain_desc(g.w)},
        Convolution::Argument{DNNL_ARG_DST, desc.dst_desc(), plain_desc(g.y)}, bias, node.inputs[1].is_constant);
  });
}

KernelOrReason onednn_conv_input_grad(const NodeSpec& node) {
  if (std::string reason = refusal(node); !reason.empty()) return declined(reason);
  return try_onednn([&]() -> std::unique_ptr<Kernel> {
    const Geometry g(node, node.outputs[0].shape, node.inputs[1].shape, node.inputs[0].shape);
    const auto hint = forward_desc(g, false, prop_kind::forward_training);
    const dnnl::convolution_backward_data::primitive_desc desc(
        {dnnl::algorithm::convolution_direct, any_desc(g.x), any_desc(g.w), any_desc(g.y), g.strides, g.dilations,
         g.pads_begin, g.pads_end},
        caller_scratch(), cpu_engine(), hint);
    return std::make_unique<Convolution>(
        dnnl::convolution_backward_data(desc), desc.scratchpad_desc(), "cpu:onednn convolution backward data",
        Convolution::Argument{DNNL_ARG_DIFF_DST, desc.diff_dst_desc(), plain_desc(g.y)},
        Convolution::Argument{DNNL_ARG_WEIGHTS, desc.weights_desc(), plain_desc(g.w)},
        Convolution::Argument{DNNL_ARG_DIFF_SRC, desc.diff_src_desc(), plain_desc(g.x)}, std::nullopt,
        node.inputs[1].is_constant);
  });
}

KernelOrReason onednn_conv_weight_grad(const NodeSpec& node) {
  if (std::string reason = refusal(node); !reason.empty()) return declined(reason);
  return try_onednn([&]() -> std::unique_ptr<Kernel> {
    const Geometry g(node, node.inputs[1].shape, node.outputs[0].shape, node.inputs[0].shape);
    const auto hint = forward_desc(g, false, prop_kind::forward_training);
    const dnnl::convolution_backward_weights::primitive_desc desc(
        {dnnl::algorithm::convolution_direct, any_desc(g.x), any_desc(g.w), any_desc(g.y), g.strides, g.dilations,
         g.pads_begin, g.pads_end},
        caller_scratch(), cpu_engine(), hint);
    return std::make_unique<Convolution>(
        dnnl::convolution_backward_weights(desc), desc.scratchpad_desc(), "cpu:onednn convolution backward weights",
        Convolution::Argument{DNNL_ARG_DIFF_DST, desc.diff_dst_desc(), plain_desc(g.y)},
        Convolution::Argument{DNNL_ARG_SRC, desc.src_desc(), plain_desc(g.x)},
        Convolution::Argument{DNNL_ARG_DIFF_WEIGHTS, desc.diff_weights_desc(), plain_desc(g.w)}, std::nullopt, false);
  });
}

}  // namespace mpc::cpu
