#include "api/html_report.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/block_tree.h"
#include "api/facts.h"
#include "api/memory_facts.h"
#include "api/page.h"
#include "api/report.h"
#include "compiler/base/error.h"
#include "compiler/base/sha256.h"

namespace mpc::api {
namespace {

using Json = nlohmann::ordered_json;

// More than a screen shows; beyond, neighbours in time are joined.
constexpr size_t kMostPoints = 4000;
constexpr size_t kMostBars = 20'000;
constexpr size_t kShownTensors = 10;

std::string what_is_planned(const Plan& plan) {
  std::string text = plan.is_training ? "training step" : "inference step";
  if (plan.batch > 0) text += fmt::format(", batch {}", plan.batch);
  if (plan.microbatches > 1) text += fmt::format(" in {} micro-batches", plan.microbatches);
  return text + fmt::format(", schedule {}, objective {}", plan.schedule, plan.objective);
}

/// The forward nodes as [name, op, seconds, FLOPs, bytes of weights]; time and FLOPs of a node are also those of its
/// gradients and updates. `place` becomes the row of each forward node.
Json nodes_json(const Plan& plan, std::vector<int>& place) {
  struct Cost {
    double seconds = 0;
    double flops = 0;
  };
  std::map<std::pair<std::string, DeviceId>, Cost> of_origin;  // gradients and updates
  for (const PlanNode& node : plan.nodes) {
    if (node.phase == PlanPhase::forward) continue;
    Cost& cost = of_origin[{node.origin, node.device}];
    cost.seconds += step_seconds(plan, node);
    cost.flops += step_flops(plan, node);
  }
  Json rows = Json::array();
  place.assign(plan.nodes.size(), -1);
  std::set<PlanIndex> seen;
  for (PlanIndex n = 0; n < plan.nodes.size(); ++n) {
    const PlanNode& node = plan.nodes[n];
    if (node.phase != PlanPhase::forward) continue;
    place[n] = static_cast<int>(rows.size());
    Cost cost{step_seconds(plan, node), step_flops(plan, node)};
    // Several nodes may come from one ONNX node: the first of them carries what belongs to all.
    if (const auto more = of_origin.find({node.origin, node.device}); more != of_origin.end()) {
      cost.seconds += more->second.seconds;
      cost.flops += more->second.flops;
      of_origin.erase(more);
    }
    int64_t weights = 0;
    for (const PlanIndex value : node.inputs) {
      const bool is_weight = value != kNone && plan.values[value].kind == PlanValueKind::parameter;
      if (is_weight && seen.insert(value).second) weights += plan.value_bytes(value, 0);
    }
    rows.push_back({node.name, op_name(node.op), cost.seconds, cost.flops, weights});
  }
  return rows;
}

/// [from, to, bytes per step, 1 where the bytes travel for the first time to that device].
Json edges_json(const Plan& plan, const std::vector<int>& place) {
  const std::vector<PlanIndex> producers = producers_of(plan);
  const std::vector<PlanIndex> originals = originals_of(plan);
  std::set<PlanIndex> arrived;
  Json rows = Json::array();
  for (PlanIndex n = 0; n < plan.nodes.size(); ++n) {
    if (place[n] < 0) continue;
    std::set<PlanIndex> seen;
    for (const PlanIndex input : plan.nodes[n].inputs) {
      if (input == kNone || !seen.insert(input).second) continue;
      const PlanIndex producer = producers[originals[input]];
      if (producer == kNone || place[producer] < 0) continue;
      int64_t bytes = plan.value_bytes(input, 0);
      if (!plan.values[input].per_step) {
        bytes = 0;
        for (int32_t m = 0; m < plan.microbatches; ++m) bytes += plan.value_bytes(input, plan.variant_of(m));
      }
      const bool crosses = plan.nodes[producer].device != plan.nodes[n].device && arrived.insert(input).second;
      rows.push_back({place[producer], place[n], bytes, crosses ? 1 : 0});
    }
  }
  return rows;
}

Json tree_json(const Plan& plan, const std::vector<int>& place) {
  Json rows = Json::array();
  for (const TreeBlock& block : block_tree(plan)) {
    rows.push_back({block.name, block.parent, block.device.index(), block.node == kNone ? -1 : place[block.node]});
  }
  return rows;
}

/// One bar of the timeline: instructions of one kind that follow each other on a device or link.
struct Bar {
  size_t row = 0;
  bool is_measured = false;
  double start_s = 0;
  double end_s = 0;
  std::string_view phase;
  int32_t microbatch = kPerStep;
  std::string label;
  int count = 1;
};

class Bars {
 public:
  explicit Bars(const Plan& plan) : plan_(plan) {
    for (const PlanDevice& device : plan.devices) rows.push_back(device.name);
    for (const PlanTransfer& transfer : plan.transfers) {
      const auto [found, is_new] = row_of_link_.emplace(std::pair(transfer.from, transfer.to), rows.size());
      if (is_new) {
        rows.push_back(fmt::format("{} \xE2\x86\x92 {}", plan.devices[transfer.from.index()].name,
                                   plan.devices[transfer.to.index()].name));
      }
    }
  }

  void add(const Timeline& timeline, bool is_measured, double gap_s) {
    std::map<size_t, size_t> last;  // row -> its last bar
    std::vector<TimelineEntry> entries = timeline.entries;
    std::ranges::stable_sort(entries, {}, &TimelineEntry::start_s);
    for (const TimelineEntry& entry : entries) {
      const Instruction& instruction = plan_.instructions[entry.instruction];
      if (instruction.action != Action::run && instruction.action != Action::recv) continue;
      Bar bar = instruction.action == Action::run ? of_run(instruction) : of_copy(instruction);
      bar.is_measured = is_measured;
      bar.start_s = entry.start_s;
      bar.end_s = entry.end_s;
      const auto found = last.find(bar.row);
      if (found != last.end()) {
        Bar& before = bars[found->second];
        if (before.phase == bar.phase && before.microbatch == bar.microbatch && bar.start_s - before.end_s <= gap_s) {
          before.end_s = std::max(before.end_s, bar.end_s);
          ++before.count;
          continue;
        }
      }
      last[bar.row] = bars.size();
      bars.push_back(std::move(bar));
    }
  }

  std::vector<std::string> rows;
  std::vector<Bar> bars;

 private:
  Bar of_run(const Instruction& instruction) const {
    const PlanNode& node = plan_.nodes[instruction.index];
    return {node.device.index(), false, 0, 0, plan_phase_name(node.phase), instruction.microbatch, node.name};
  }
  Bar of_copy(const Instruction& instruction) const {
    const PlanTransfer& transfer = plan_.transfers[instruction.index];
    return {
        row_of_link_.at({transfer.from, transfer.to}), false, 0, 0, "transfer", instruction.microbatch, transfer.name};
  }

  const Plan& plan_;
  std::map<std::pair<DeviceId, DeviceId>, size_t> row_of_link_;
};

void add_timeline(const Plan& plan, const Timeline& predicted, const Timeline* measured, Json& json) {
  // Gaps that the eye does not see are none; where that leaves too many bars, the gaps it hardly sees are none either.
  std::optional<Bars> bars;
  for (double share = 5e-4; share < 1; share *= 4) {
    bars.emplace(plan);
    bars->add(predicted, false, share * predicted.step_seconds);
    if (measured != nullptr) bars->add(*measured, true, share * measured->step_seconds);
    if (bars->bars.size() <= kMostBars) break;
  }
  json["rows"] = bars->rows;
  Json& rows = json["bars"] = Json::array();
  for (const Bar& bar : bars->bars) {
    rows.push_back(
        {bar.row, bar.is_measured ? 1 : 0, bar.start_s, bar.end_s, bar.phase, bar.microbatch, bar.label, bar.count});
  }
}

std::string_view kind_of(const Plan& plan, const PlanSlice& slice) {
  if (slice.value == kNone) return "workspace";
  const PlanValue& value = plan.values[slice.value];
  if (value.is_gradient) return "gradient";
  switch (value.kind) {
    case PlanValueKind::parameter:
      return "weight";
    case PlanValueKind::state:
      return "optimizer";
    case PlanValueKind::constant:
      return "constant";
    case PlanValueKind::input:
      return "input";
    case PlanValueKind::temporary:
      break;
  }
  return "activation";
}

/// At most kMostPoints of them; of those left out together the highest stays.
std::vector<MemoryPoint> thinned(const std::vector<MemoryPoint>& points) {
  if (points.size() <= kMostPoints) return points;
  std::vector<MemoryPoint> result;
  const size_t stride = (points.size() + kMostPoints - 1) / kMostPoints;
  for (size_t i = 0; i < points.size(); i += stride) {
    const auto begin = points.begin() + static_cast<std::ptrdiff_t>(i);
    const auto end = points.begin() + static_cast<std::ptrdiff_t>(std::min(points.size(), i + stride));
    result.push_back(*std::max_element(begin, end, [](const auto& a, const auto& b) { return a.bytes < b.bytes; }));
  }
  return result;
}

Json memory_json(const Plan& plan, const Timeline& timeline) {
  Json rows = Json::array();
  for (const MemoryFacts& facts : memory_facts(plan, timeline)) {
    Json points = Json::array();
    for (const MemoryPoint& point : thinned(facts.points)) points.push_back({point.time_s, point.bytes});
    Json tensors = Json::array();
    int64_t other_bytes = 0;
    for (size_t i = 0; i < facts.at_peak.size(); ++i) {
      const PlanSlice& slice = plan.slices[facts.at_peak[i].slice];
      if (i >= kShownTensors) {
        other_bytes += slice.bytes;
        continue;
      }
      std::string name = slice.value == kNone ? "workspace" : plan.values[slice.value].name;
      if (slice.microbatch != kPerStep && plan.microbatches > 1)
        name += fmt::format(" (micro-batch {})", slice.microbatch);
      tensors.push_back({std::move(name), kind_of(plan, slice), slice.bytes});
    }
    rows.push_back({{"points", std::move(points)},
                    {"peak_time", facts.peak.time_s},
                    {"peak_bytes", facts.peak.bytes},
                    {"tensors", std::move(tensors)},
                    {"others", facts.at_peak.size() - std::min(facts.at_peak.size(), kShownTensors)},
                    {"other_bytes", other_bytes}});
  }
  return rows;
}

Json transfers_json(const Plan& plan) {
  Json rows = Json::array();
  for (const v1::TransferPlan& row : transfer_plans(plan)) {
    rows.push_back({row.value, row.from, row.to, row.bytes, row.phase, row.seconds});
  }
  return rows;
}

/// JSON as it may stand within <script>: no byte of it can end the element or begin a comment.
std::string script_text(const Json& json) {
  const std::string text = json.dump(-1, ' ', true, Json::error_handler_t::replace);
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (c == '<' || c == '>' || c == '&') {
      out +=
          fmt::format("\\u{:04x}", static_cast<unsigned>(c));  // only within strings: JSON has none of them elsewhere
    } else {
      out += c;
    }
  }
  return out;
}

std::string base64(std::span<const uint8_t> bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t word = 0;
    for (size_t j = 0; j < 3; ++j) word = word << 8 | (i + j < bytes.size() ? bytes[i + j] : 0U);
    for (size_t j = 0; j < 4; ++j) out += i + j <= bytes.size() ? kDigits[word >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

/// What a content policy calls a text: its hash.
std::string policy_hash(std::string_view text) {
  Sha256 sha;
  sha.update(std::as_bytes(std::span(text)));
  return fmt::format("'sha256-{}'", base64(sha.finish()));
}

}  // namespace

std::string html_report(const Plan& plan, const Timeline* measured) {
  const Timeline predicted = simulate(plan);
  Json json;
  const std::string& path = plan.model.path;
  json["model"] = path.empty()
                      ? "model"
                      : escaped(path.substr(path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1), 200);
  json["what"] = what_is_planned(plan);
  json["microbatches"] = plan.microbatches;
  json["step_seconds"] = predicted.step_seconds;
  json["measured_seconds"] = measured == nullptr ? 0 : measured->step_seconds;
  json["one_device_seconds"] = plan.one_device_seconds;
  json["bubble"] = predicted.bubble;
  json["notes"] = plan.notes;
  json["warnings"] = plan.warnings;
  json["devices"] = devices_json(plan);
  std::vector<int> place;
  json["nodes"] = nodes_json(plan, place);
  json["edges"] = edges_json(plan, place);
  json["tree"] = tree_json(plan, place);
  add_timeline(plan, predicted, measured, json);
  json["memory"] = memory_json(plan, predicted);
  json["transfers"] = transfers_json(plan);
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src {}; style-src {}\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>mpc "
      "plan</title>\n<style>{}</style>\n"
      "</head>\n<body>\n{}<script type=\"application/json\" "
      "id=\"data\">{}</script>\n<script>{}</script>\n</body>\n</html>\n",
      policy_hash(kPageScript), policy_hash(kPageStyle), kPageStyle, kPageBody, script_text(json), kPageScript);
}

}  // namespace mpc::api
