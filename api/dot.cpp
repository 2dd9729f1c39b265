#include "api/dot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include <fmt/format.h>

#include "api/facts.h"
#include "api/fold.h"
#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "compiler/plan/host_memory.h"

namespace mpc::api {
namespace {

/// Colours of a device: its cluster, its boxes, its lines.
struct Palette {
  std::string_view cluster;
  std::string_view box;
  std::string_view line;
};
constexpr std::array<Palette, 8> kPalettes = {{{"#F1F5FE", "#D3E1FC", "#2F62C9"},
                                               {"#FEF5EA", "#FCDDB8", "#C46A12"},
                                               {"#EEF9F1", "#C7EBD2", "#228A4A"},
                                               {"#FAF0FA", "#EFCDED", "#973D8F"},
                                               {"#FDF1F0", "#F8CFCB", "#BE4238"},
                                               {"#EDF9F9", "#C0E7E8", "#1F848A"},
                                               {"#F8F7E7", "#E8E2AB", "#887A10"},
                                               {"#F3F3F6", "#D6D8E1", "#545A73"}}};
constexpr std::string_view kInk = "#1F2430";
constexpr std::string_view kFaint = "#6B7280";
// Splines of thousands of edges take minutes; straight lines take seconds.
constexpr size_t kMostSplineBoxes = 600;
constexpr size_t kMostNameBytes = 48;

const Palette& palette(DeviceId device) {
  return kPalettes[device.index() % kPalettes.size()];
}

std::string html(std::string_view text) {
  std::string out;
  for (const char c : escaped(text, kMostNameBytes)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

/// A DOT string. Tooltips keep their line breaks as \n.
std::string quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
  }
  return out + "\"";
}

/// "Conv x3, Relu x2".
std::string op_counts(const Plan& plan, const Block& block, size_t most) {
  std::map<std::string_view, int> counts;
  for (const PlanIndex n : block.nodes) ++counts[op_name(plan.nodes[n].op)];
  std::vector<std::pair<std::string_view, int>> sorted(counts.begin(), counts.end());
  std::ranges::stable_sort(sorted, [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string text;
  for (size_t i = 0; i < std::min(most, sorted.size()); ++i) {
    text += (i == 0 ? "" : ", ") + std::string(sorted[i].first);
    if (sorted[i].second > 1) text += fmt::format(" \xC3\x97{}", sorted[i].second);
  }
  return sorted.size() > most ? text + ", \xE2\x80\xA6" : text;
}

struct BlockCost {
  double flops = 0;
  double seconds = 0;
  int64_t parameter_bytes = 0;
  int64_t output_bytes = 0;
};

BlockCost cost_of(const Plan& plan, const Block& block) {
  BlockCost cost;
  std::set<PlanIndex> parameters;
  for (const PlanIndex n : block.nodes) {
    const PlanNode& node = plan.nodes[n];
    cost.flops += step_flops(plan, node);
    cost.seconds += step_seconds(plan, node);
    for (const PlanIndex value : node.inputs) {
      if (value != kNone && plan.values[value].kind == PlanValueKind::parameter) parameters.insert(value);
    }
    for (const PlanIndex value : node.outputs) {
      if (value != kNone) cost.output_bytes += plan.value_bytes(value, 0);
    }
  }
  for (const PlanIndex value : parameters) cost.parameter_bytes += plan.value_bytes(value, 0);
  return cost;
}

/// One arrow between two boxes, or from an input, or to an output.
struct Edge {
  std::string from;
  std::string to;
  int64_t bytes = 0;
  bool is_transfer = false;  // carries bytes to another device
  bool is_shared = false;    // reads a copy that another arrow brought
  DeviceId source;
  std::vector<std::string> values;
};

class Picture {
 public:
  Picture(const Plan& plan, const v1::DotOptions& options)
      : plan_(plan),
        options_(options),
        folding_(fold(plan, options)),
        producers_(producers_of(plan)),
        originals_(originals_of(plan)) {}

  std::string draw() {
    head();
    for (size_t d = 0; d < plan_.devices.size(); ++d) {
      if (!is_host_memory(plan_.devices[d])) cluster(DeviceId(d));
    }
    inputs_and_outputs();
    edges();
    out_ += "}\n";
    return std::move(out_);
  }

 private:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
    out_ += '\n';
  }

  static std::string box_name(int block) { return fmt::format("b{}", block); }

  void head();
  void cluster(DeviceId device);
  void box(int index);
  std::string box_label(const Block& block, const BlockCost& cost) const;
  void inputs_and_outputs();
  void edges();
  void add_edge(std::string from, std::string to, PlanIndex value, bool is_transfer, bool is_shared, DeviceId source);
  int64_t bytes_per_step(PlanIndex value) const;
  void write_edge(const Edge& edge);

  const Plan& plan_;
  const v1::DotOptions& options_;
  const Folding folding_;
  const std::vector<PlanIndex> producers_;
  const std::vector<PlanIndex> originals_;
  std::map<std::tuple<std::string, std::string, bool>, Edge> edges_;
  std::string out_;
};

void Picture::head() {
  const std::string path = plan_.model.path;
  const std::string model = path.substr(path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1);
  std::string facts = plan_.is_training ? "training step" : "inference step";
  if (plan_.batch > 0) facts += fmt::format(" \xC2\xB7 batch {}", plan_.batch);
  if (plan_.microbatches > 1)
    facts += fmt::format(" \xC2\xB7 {} micro-batches \xC2\xB7 {}", plan_.microbatches, plan_.schedule);
  facts += fmt::format(" \xC2\xB7 predicted {}", seconds_text(plan_.step_seconds));
  line("digraph plan {{");
  line(
      "  graph [fontname=\"Helvetica\", fontsize=16, fontcolor=\"{}\", bgcolor=\"white\", labelloc=t, pad=0.3, "
      "nodesep=0.3, "
      "ranksep=0.42, rankdir=TB, splines={}, tooltip={},",
      kInk, folding_.blocks.size() > kMostSplineBoxes ? "line" : "true", quote(model));
  line("    label=<<b>{}</b><br/><font point-size=\"11\" color=\"{}\">{}</font><br/> >];", html(model), kFaint, facts);
  line(
      "  node [fontname=\"Helvetica\", fontsize=11, fontcolor=\"{}\", shape=box, style=\"rounded,filled\", "
      "penwidth=1.0, "
      "margin=\"0.14,0.07\", height=0.3];",
      kInk);
  line("  edge [fontname=\"Helvetica\", fontsize=10, color=\"#9AA1AF\", penwidth=1.0, arrowsize=0.6];");
}

void Picture::cluster(DeviceId device) {
  const PlanDevice& facts = plan_.devices[device.index()];
  const Palette& colours = palette(device);
  const double share = facts.capacity_bytes > 0
                           ? 100.0 * static_cast<double>(facts.arena_bytes) / static_cast<double>(facts.capacity_bytes)
                           : 0;
  line("  subgraph cluster_{} {{", device.index());
  line(
      "    style=\"rounded,filled\"; color=\"{}\"; fillcolor=\"{}\"; penwidth=1.2; margin=14; labeljust=l; "
      "fontcolor=\"{}\"; fontsize=12;",
      colours.line, colours.cluster, colours.line);
  line("    tooltip={};", quote(fmt::format("{}: {} of {} used ({:.1f} %), {}, {} per step", facts.name,
                                            bytes_text(facts.arena_bytes), bytes_text(facts.capacity_bytes), share,
                                            flops_text(facts.flops), seconds_text(facts.seconds))));
  // Short, so that arrows that enter in the middle do not cross it; the rest stands in the tooltip.
  line("    label=<<b>{}</b>  <font point-size=\"10\">{}</font>>;", html(facts.name), bytes_text(facts.arena_bytes));
  bool is_empty = true;
  for (size_t b = 0; b < folding_.blocks.size(); ++b) {
    if (folding_.blocks[b].device != device) continue;
    is_empty = false;
    box(static_cast<int>(b));
  }
  if (is_empty)
    line("    idle{} [label=\"idle\", style=\"rounded,dashed\", color=\"{}\", fontcolor=\"{}\"];", device.index(),
         kFaint, kFaint);
  line("  }}");
}

std::string Picture::box_label(const Block& block, const BlockCost& cost) const {
  const auto small = [](const std::string& text) {
    return fmt::format("<br/><font point-size=\"9\" color=\"{}\">{}</font>", kFaint, text);
  };
  if (options_.level == v1::DotOptions::Level::op) {
    const PlanNode& node = plan_.nodes[block.nodes.front()];
    std::string label = fmt::format("<b>{}</b>", html(op_name(node.op)));
    if (!node.outputs.empty() && node.outputs.front() != kNone) {
      const PlanValue& value = plan_.values[node.outputs.front()];
      label += fmt::format("  <font point-size=\"9\">{}</font>", html(type_text(value.dtype, value.shapes.front())));
    }
    return label + small(html(node.name));
  }
  // The frame around a device's only box has its name already.
  const bool is_device = options_.level == v1::DotOptions::Level::device;
  const std::string name =
      is_device ? fmt::format("{} node{}", block.nodes.size(), block.nodes.size() == 1 ? "" : "s") : block.name;
  std::string title = fmt::format("<b>{}</b>", html(name));
  if (block.direction == Block::Direction::backward) title += " backward";
  if (block.direction == Block::Direction::update) title += " update";
  std::string numbers = cost.flops > 0 ? flops_text(cost.flops) : "";
  if (cost.parameter_bytes > 0) {
    numbers += fmt::format("{}{} weights", numbers.empty() ? "" : " \xC2\xB7 ", bytes_text(cost.parameter_bytes));
  }
  return title + small(html(op_counts(plan_, block, 3))) + (numbers.empty() ? "" : small(numbers));
}

void Picture::box(int index) {
  const Block& block = folding_.blocks[static_cast<size_t>(index)];
  const BlockCost cost = cost_of(plan_, block);
  const Palette& colours = palette(block.device);
  // Gradients and updates are paler, so that the forward pass stands out.
  const bool is_dim = block.direction != Block::Direction::forward;
  const std::string tooltip = fmt::format(
      "{}\n{} node{}: {}\n{}, {} per step\nweights {}, results {} per micro-batch", escaped(block.name, 200),
      block.nodes.size(), block.nodes.size() == 1 ? "" : "s", op_counts(plan_, block, 12), flops_text(cost.flops),
      seconds_text(cost.seconds), bytes_text(cost.parameter_bytes), bytes_text(cost.output_bytes));
  line("    {} [label=<{}>, fillcolor=\"{}\", color=\"{}\"{}, tooltip={}];", box_name(index), box_label(block, cost),
       is_dim ? "white" : colours.box, colours.line, is_dim ? ", style=\"rounded,filled,dashed\"" : "", quote(tooltip));
}

void Picture::inputs_and_outputs() {
  for (size_t i = 0; i < plan_.inputs.size(); ++i) {
    const PlanInput& input = plan_.inputs[i];
    if (!input.is_supplied_by_caller()) continue;
    bool is_read = false;
    for (PlanIndex n = 0; n < plan_.nodes.size(); ++n) {
      const int block = folding_.block_of_node[n];
      if (block < 0 || std::ranges::find(plan_.nodes[n].inputs, input.value) == plan_.nodes[n].inputs.end()) continue;
      is_read = true;
      add_edge(fmt::format("in{}", i), box_name(block), input.value, false, false, DeviceId());
    }
    if (!is_read) continue;
    const PlanValue& value = plan_.values[input.value];
    line("  in{} [label=<{} <font point-size=\"9\" color=\"{}\">{}</font>>, shape=plain, style=\"\", tooltip={}];", i,
         html(input.name), kFaint, html(type_text(value.dtype, value.shapes.front())), quote(input.name));
  }
  for (size_t o = 0; o < plan_.outputs.size(); ++o) {
    const PlanOutput& output = plan_.outputs[o];
    const PlanIndex producer = producers_[originals_[output.value]];
    if (producer == kNone || folding_.block_of_node[producer] < 0) continue;
    const PlanValue& value = plan_.values[output.value];
    line("  out{} [label=<{} <font point-size=\"9\" color=\"{}\">{}</font>>, shape=plain, style=\"\", tooltip={}];", o,
         html(output.name), kFaint, html(type_text(value.dtype, value.shapes.front())), quote(output.name));
    add_edge(box_name(folding_.block_of_node[producer]), fmt::format("out{}", o), output.value, false, false,
             DeviceId());
  }
}

int64_t Picture::bytes_per_step(PlanIndex value) const {
  if (plan_.values[value].per_step) return plan_.value_bytes(value, 0);
  int64_t bytes = 0;
  for (int32_t m = 0; m < plan_.microbatches; ++m) bytes += plan_.value_bytes(value, plan_.variant_of(m));
  return bytes;
}

void Picture::add_edge(std::string from, std::string to, PlanIndex value, bool is_transfer, bool is_shared,
                       DeviceId source) {
  Edge& edge = edges_[{from, to, is_transfer}];
  const std::string& name = plan_.values[value].name;
  if (std::ranges::find(edge.values, name) != edge.values.end()) return;
  edge.from = std::move(from);
  edge.to = std::move(to);
  edge.is_transfer = is_transfer;
  edge.is_shared = is_shared;
  edge.source = source;
  edge.bytes += bytes_per_step(value);
  edge.values.push_back(name);
}

void Picture::edges() {
  std::set<PlanIndex> arrived;  // copies whose transfer is drawn: it is sent once, whoever reads it
  for (PlanIndex n = 0; n < plan_.nodes.size(); ++n) {
    const int reader = folding_.block_of_node[n];
    if (reader < 0) continue;
    for (const PlanIndex input : plan_.nodes[n].inputs) {
      if (input == kNone) continue;
      const PlanIndex producer = producers_[originals_[input]];
      if (producer == kNone) continue;
      const int maker = folding_.block_of_node[producer];
      if (maker < 0 || maker == reader) continue;
      const bool crosses = plan_.nodes[producer].device != plan_.nodes[n].device;
      const bool is_transfer = crosses && arrived.insert(input).second;
      add_edge(box_name(maker), box_name(reader), originals_[input], is_transfer, crosses && !is_transfer,
               plan_.nodes[producer].device);
    }
  }
  for (const auto& [key, edge] : edges_) {
    const auto twin = edges_.find({edge.from, edge.to, true});
    if (!edge.is_transfer && edge.is_shared && twin != edges_.end())
      continue;  // the transfer is drawn between the same boxes
    write_edge(edge);
  }
}

void Picture::write_edge(const Edge& edge) {
  constexpr size_t kMostValues = 8;
  std::string values;
  for (size_t i = 0; i < std::min(kMostValues, edge.values.size()); ++i) values += escaped(edge.values[i], 80) + "\n";
  if (edge.values.size() > kMostValues) values += fmt::format("and {} more\n", edge.values.size() - kMostValues);
  const std::string tooltip = fmt::format("{}{} per step", values, bytes_text(edge.bytes));
  if (edge.is_transfer) {
    // From 1.5 points at 1 KiB to 6 points at 1 GiB, by the logarithm of the bytes.
    const double width =
        std::clamp(1.5 + 0.225 * std::log2(std::max(1.0, static_cast<double>(edge.bytes) / 1024)), 1.5, 6.0);
    const std::string_view colour = palette(edge.source).line;
    line(
        "  {} -> {} [color=\"{}\", penwidth={:.2f}, arrowsize=0.8, label=<<b>&#160;&#160;{}</b>>, fontcolor=\"{}\", "
        "tooltip={}, labeltooltip={}];",
        edge.from, edge.to, colour, width, bytes_text(edge.bytes), colour, quote(tooltip), quote(tooltip));
  } else if (edge.is_shared) {
    line("  {} -> {} [color=\"{}\", style=dashed, tooltip={}];", edge.from, edge.to, palette(edge.source).line,
         quote(values + "already there: sent once per device"));
  } else {
    line("  {} -> {} [tooltip={}];", edge.from, edge.to, quote(tooltip));
  }
}

}  // namespace

std::string plan_dot(const Plan& plan, const v1::DotOptions& options) {
  return Picture(plan, options).draw();
}

}  // namespace mpc::api
