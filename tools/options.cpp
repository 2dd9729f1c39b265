#include "tools/options.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "tools/command_line.h"
#include "tools/console.h"

namespace mpc::tools {
namespace {

struct LimitRow {
  const char* name;
  void (*set)(Limits&, int64_t);
};

constexpr LimitRow kLimits[] = {
    {"model-bytes", [](Limits& l, int64_t v) { l.model_bytes = v; }},
    {"subgraph-depth", [](Limits& l, int64_t v) { l.subgraph_depth = static_cast<int>(v); }},
    {"call-depth", [](Limits& l, int64_t v) { l.function_call_depth = static_cast<int>(v); }},
    {"functions", [](Limits& l, int64_t v) { l.functions = v; }},
    {"nodes", [](Limits& l, int64_t v) { l.nodes = v; }},
    {"attributes", [](Limits& l, int64_t v) { l.attributes_per_node = v; }},
    {"values", [](Limits& l, int64_t v) { l.values_per_node = v; }},
    {"name-bytes", [](Limits& l, int64_t v) { l.name_bytes = v; }},
    {"constant-bytes", [](Limits& l, int64_t v) { l.folded_constant_bytes = v; }},
    {"all-constant-bytes", [](Limits& l, int64_t v) { l.folded_bytes_total = v; }},
};

std::vector<std::string> limit_names() {
  std::vector<std::string> names;
  for (const LimitRow& row : kLimits) names.emplace_back(row.name);
  return names;
}

void set_limit(Limits& limits, const std::string& text) {
  const auto [name, value] = name_and_value("--limit", text);
  const std::optional<int64_t> number = parse_bytes(value);
  // Depths are ints, and a walk as deep as an int allows would not end in memory anyway.
  constexpr int64_t kMost = int64_t{1} << 40;
  if (!number || *number < 0 || *number > kMost) {
    throw Error(ErrorId::M003, "--limit " + text, fmt::format("'{}' is not a count or size", value));
  }
  for (const LimitRow& row : kLimits) {
    if (name == row.name) return row.set(limits, *number);
  }
  std::string all;
  for (const std::string& known : limit_names()) all += (all.empty() ? "" : ", ") + known;
  const std::optional<std::string> near = nearest(name, limit_names());
  throw Error(ErrorId::M002, "--limit " + text, fmt::format("there is no limit '{}'", name),
              near ? fmt::format("did you mean {}?", *near) : "use one of " + all);
}

bool has_gpu(const Cluster& chosen) {
  for (int d = 0; d < chosen.device_count(); ++d) {
    if (chosen.backend(d) == "cuda") return true;
  }
  return false;
}

/// The GPU that a device stands for: "cuda:0" for "cuda:0" and "cuda:0.1".
std::string gpu_name(const std::string& device_name) {
  return device_name.substr(0, device_name.find('.'));
}

/// @throws Error(M080) when a device's GPU is not there.
void require_gpus(const Cluster& chosen, const LocalGpus& local) {
  for (int d = 0; d < chosen.device_count(); ++d) {
    if (chosen.backend(d) == "cpu") continue;
    const std::string name = chosen.device_name(d);
    const bool is_there =
        std::ranges::any_of(local.gpus, [&](const LocalGpu& gpu) { return gpu.name == gpu_name(name); });
    if (is_there) continue;
    const int count = chosen.device_count();
    throw Error(
        ErrorId::M080, fmt::format("device {}", name),
        local.gpus.empty() ? fmt::format("this machine has 0 GPUs that mpc can use: {}", local.reason)
                           : fmt::format("this machine has {} GPUs that mpc can use", local.gpus.size()),
        fmt::format("--devices cuda:0*{0} puts {0} logical devices on one GPU, --devices cpu:{0} runs on the CPU",
                    count));
  }
}

/// The kind whose rates are taken when planning for the GPUs at hand.
std::string kind_of(const LocalGpus& local, const std::string& wanted, const Console& console) {
  if (!wanted.empty()) return wanted;
  if (!local.gpus.front().kind.empty()) return local.gpus.front().kind;
  console.note(fmt::format("{} is not in the table of hardware: planning with the rates of {}",
                           local.gpus.front().model, assumed_gpu_kind()));
  return std::string(assumed_gpu_kind());
}

/// What each device may use: its share of what is free on its GPU, less a part for workspaces and handles of libraries.
std::vector<int64_t> free_shares(const Cluster& chosen, const LocalGpus& local) {
  constexpr double kUsable = 0.9;
  std::vector<int64_t> bytes;
  for (int d = 0; d < chosen.device_count(); ++d) {
    bytes.push_back(chosen.memory_bytes(d));
    for (const LocalGpu& gpu : local.gpus) {
      if (gpu.name != gpu_name(chosen.device_name(d))) continue;
      int64_t sharing = 0;
      for (int e = 0; e < chosen.device_count(); ++e) sharing += gpu_name(chosen.device_name(e)) == gpu.name ? 1 : 0;
      bytes.back() = static_cast<int64_t>(static_cast<double>(gpu.free_bytes) * kUsable) / sharing;
    }
  }
  return bytes;
}

}  // namespace

void PlanFlags::begin(const CommandLine& line) {
  first_ = line.flags().size();
}

void PlanFlags::end(CommandLine& line) {
  std::vector<Flag> flags = line.flags();
  flags.erase(flags.begin(), flags.begin() + static_cast<std::ptrdiff_t>(first_));
  // The flags are gone when the command runs.
  line.when_read([this, flags = std::move(flags)] {
    for (const Flag& flag : flags) {
      if (flag.is_given()) given_.push_back(flag.name());
    }
  });
}

void PlanFlags::refuse(const std::string& command) const {
  if (given_.empty()) return;
  throw Error(ErrorId::M001, command, fmt::format("--plan has decided what {} says", given_.front()),
              "leave it out, or give it to mpc partition");
}

std::pair<std::string, std::string> name_and_value(const std::string& flag, const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw Error(ErrorId::M003, fmt::format("{} {}", flag, text), "is not of the form NAME=VALUE");
  }
  return {text.substr(0, equals), text.substr(equals + 1)};
}

void DeviceFlags::add(CommandLine& line) {
  Flag count = line.option("--gpus", gpus, "this many GPUs").type("N").group("Devices");
  line.option("--gpu-type", gpu_type, "kind of GPU (h200, a100-80g, rtx4090, ...), or a JSON file that describes one")
      .type("KIND|FILE")
      .group("Devices");
  Flag list = line.option("--devices", devices, "cpu:2 | cuda:0,cuda:1 | cuda:0*2 | cpu,cuda:0").group("Devices");
  Flag file = line.option("--cluster", cluster, "a JSON file with devices and links").type("FILE").group("Devices");
  line.option("--memory", memory, "the most each device may use: 16GiB, or 20GiB,10GiB")
      .type("SIZE[,SIZE...]")
      .group("Devices");
  count.excludes(list).excludes(file);
  list.excludes(file);
  // An empty list is a mistake, not a list that was not given.
  list.check([](const std::string& text) { return text.empty() ? std::string("names no device") : std::string(); });
}

void DeviceFlags::add_profile(CommandLine& line) {
  line.option("--profile", profile, "measured rates that `mpc profile` wrote, for predicted times and the split")
      .type("FILE")
      .group("Devices");
}

Cluster DeviceFlags::for_planning(const Console& console) const {
  if (!is_given()) {
    throw Error(ErrorId::M001, "", "nothing says which devices to plan for",
                "give --gpus N, --devices cpu:N or --cluster FILE");
  }
  const std::string kind = gpu_type.empty() ? std::string(assumed_gpu_kind()) : gpu_type;
  const Cluster chosen = gpus              ? Cluster::gpus(*gpus, kind)
                         : cluster.empty() ? Cluster::devices(devices, kind)
                                           : Cluster::load(cluster);
  if (has_gpu(chosen) && gpu_type.empty() && cluster.empty()) {
    console.note(fmt::format("no GPU is at hand: planning for {} (--gpu-type chooses another kind)", kind));
  }
  return finished(chosen, console);
}

Cluster DeviceFlags::finished(Cluster chosen, const Console& console) const {
  if (!profile.empty()) chosen = chosen.with_profile(Profile::load(profile));
  for (const std::string& text : chosen.notes()) console.note(text);
  return memory ? chosen.with_memory(*memory) : chosen;
}

Cluster DeviceFlags::for_running(const Console& console) const {
  if (gpus) Cluster::gpus(*gpus, std::string(assumed_gpu_kind()));  // for its check of the number
  std::string list = devices.empty() ? "cpu:1" : devices;
  if (gpus) {
    list.clear();
    for (int i = 0; i < *gpus; ++i) list += fmt::format("{}cuda:{}", i == 0 ? "" : ",", i);
  }
  const auto choose = [&](const std::string& kind) {
    return !cluster.empty() ? Cluster::load(cluster) : Cluster::devices(list, kind);
  };
  Cluster chosen = choose(std::string(assumed_gpu_kind()));
  if (has_gpu(chosen)) {
    const LocalGpus local = local_gpus();
    require_gpus(chosen, local);
    if (cluster.empty()) chosen = choose(kind_of(local, gpu_type, console)).with_memory(free_shares(chosen, local));
  }
  return finished(chosen, console);
}

void ModelFlags::add(CommandLine& line) {
  line.option("--limit", limits, "raise or lower a limit on what a model file may ask for, for example nodes=2000000")
      .type("NAME=VALUE")
      .group("Model");
  line.option("--external-root", external_root,
              "external data may be reached through links that stay below this folder")
      .type("DIR")
      .group("Model");
}

Model ModelFlags::load(const std::string& path) const {
  Limits bounds;
  for (const std::string& limit : limits) set_limit(bounds, limit);
  bounds.external_root = external_root;
  return Model::load(path, bounds);
}

namespace {

template <class T>
Tensor tensor_of(const DeclaredTensor& input, const std::vector<double>& numbers) {
  std::vector<int64_t> shape;
  if (!input.has_shape || !input.dims.empty()) shape.push_back(static_cast<int64_t>(numbers.size()));
  Tensor tensor = Tensor::zeros(dtype_of<T>(), shape);
  for (size_t i = 0; i < numbers.size(); ++i) {
    const T element = static_cast<T>(numbers[i]);
    std::memcpy(&tensor.bytes[i * sizeof(T)], &element, sizeof(T));
  }
  return tensor;
}

/// The types of inputs whose numbers a flag can hold.
constexpr std::pair<std::string_view, Tensor (*)(const DeclaredTensor&, const std::vector<double>&)> kContents[] = {
    {"i64", tensor_of<int64_t>},
    {"i32", tensor_of<int32_t>},
    {"f32", tensor_of<float>},
    {"f64", tensor_of<double>},
    {"bool", tensor_of<bool>}};

/// What --content gives an input: "16000" of a scalar, "1,3,-1" of a vector, or the content of a file.
Tensor content_of(const DeclaredTensor& input, const std::string& text) {
  std::vector<double> numbers;
  for (const std::string& part : split(text, ',')) {
    const std::optional<double> number = parse_number(part);
    if (!number) return load_tensor(text);
    numbers.push_back(*number);
  }
  const std::string where = fmt::format("--content {}={}", input.name, text);
  const auto row = std::ranges::find(kContents, input.dtype, [](const auto& pair) { return pair.first; });
  if (row == std::end(kContents) || input.dims.size() > 1 ||
      (input.has_shape && input.dims.empty() && numbers.size() != 1)) {
    throw Error(ErrorId::M004, where,
                fmt::format("the input has {} dimensions and elements of type {}", input.dims.size(),
                            input.dtype.empty() ? "unknown" : input.dtype),
                "give a tensor file");
  }
  const bool is_integer = !input.dtype.starts_with('f');
  constexpr double kMost = 9007199254740992.0;  // to which doubles are all integers
  for (const double number : numbers) {
    if (is_integer && (number != std::floor(number) || std::abs(number) > kMost))
      throw Error(ErrorId::M003, where, fmt::format("{} is no integer", number_text(number)));
  }
  return row->second(input, numbers);
}

}  // namespace

void ShapeFlags::add(CommandLine& line) {
  line.option("--dim", dims, "the value of a symbolic dimension").type("NAME=N").group("Model");
  line.option("--shape", shapes, "the shape of an input, for the whole batch; a scalar's is empty")
      .type("INPUT=N,N,...")
      .group("Model");
  line.option("--content", contents,
              "what an input always holds, where branches or shapes depend on it: numbers, or a tensor file")
      .type("INPUT=N,...|FILE")
      .group("Model");
  line.option("--batch", batch, "rows of a step").type("N").group("Model").range(1, int64_t{1} << 40);
}

Bindings ShapeFlags::bindings(const Model& model) const {
  ShapeFlags others = *this;
  others.contents.clear();
  Bindings result = others.bindings();
  const std::vector<DeclaredTensor> inputs = model.inputs();
  for (const std::string& text : contents) {
    const auto [name, value] = name_and_value("--content", text);
    const auto input = std::ranges::find(inputs, name, &DeclaredTensor::name);
    if (input == inputs.end())
      throw Error(ErrorId::M004, "--content " + text, fmt::format("the model has no input '{}'", escaped(name, 200)));
    if (!result.known_inputs.emplace(name, content_of(*input, value)).second)
      throw Error(ErrorId::M003, "--content " + text, "is given twice");
  }
  return result;
}

Bindings ShapeFlags::bindings() const {
  if (!contents.empty()) {
    throw Error(ErrorId::M001, "--content " + contents.front(), "is of one model, and here are many", "leave it out");
  }
  Bindings result;
  for (const std::string& dim : dims) {
    const auto [name, value] = name_and_value("--dim", dim);
    const std::optional<int64_t> number = parse_integer(value);
    if (!number || *number < 0)
      throw Error(ErrorId::M003, "--dim " + dim, fmt::format("'{}' is not a dimension", value));
    if (!result.dims.emplace(name, *number).second) throw Error(ErrorId::M003, "--dim " + dim, "is given twice");
  }
  for (const std::string& text : shapes) {
    const auto [name, value] = name_and_value("--shape", text);
    std::vector<int64_t> shape;
    for (const std::string& part : value.empty() ? std::vector<std::string>() : split(value, ',')) {
      const std::optional<int64_t> number = parse_integer(part);
      if (!number || *number < 0)
        throw Error(ErrorId::M003, "--shape " + text, fmt::format("'{}' is not a dimension", part));
      shape.push_back(*number);
    }
    if (!result.input_shapes.emplace(name, std::move(shape)).second)
      throw Error(ErrorId::M003, "--shape " + text, "is given twice");
  }
  result.batch = batch;
  return result;
}

void StepFlags::add(CommandLine& line) {
  line.option("--transport", transport, "auto | device | peer | host | nccl: how tensors move between CUDA devices")
      .group("Devices");
  line.option("--watchdog", watchdog_seconds, "a step without progress for this long has failed")
      .type("SECONDS")
      .positive()
      .group("Devices");
}

void StepFlags::apply(SessionOptions& options) const {
  options.transport = transport;
  options.watchdog_seconds = watchdog_seconds;
}

void SplitFlags::add(CommandLine& line) {
  line.option("--microbatches", microbatches, "micro-batches that a step is cut into")
      .type("M")
      .group("Split")
      .range(1, 1 << 20);
  line.option("--schedule", schedule, "sequential | gpipe | 1f1b | interleaved | zb-h1 | zb-h2 | zb-v | list | auto")
      .group("Split");
  line.option("--chunks", chunks, "interleaved: runs of layers per device (default 2)")
      .type("V")
      .group("Split")
      .range(2, 64);
  line.option("--fuse", fuse,
              "auto: elementwise operators in a row run as one kernel, products take in what follows them | never")
      .group("Split")
      .one_of({"auto", "never"});
  line.option("--recompute", recompute,
              "auto: compute activations again in the backward pass where they do not fit | never")
      .group("Split")
      .one_of({"auto", "never"});
  line.option("--offload", offload,
              "auto: let activations wait in host memory for the backward pass where they do not fit | never")
      .group("Split")
      .one_of({"auto", "never"});
  line.option("--host-memory", host_memory, "the host memory that activations may take (default 64GiB)")
      .type("SIZE")
      .group("Split");
  line.option("--objective", objective, "throughput | latency | devices | memory").group("Split");
  line.option("--precision", precision, "f32 | tf32 | bf16 | f16: what is computed in; parameters stay f32")
      .group("Split");
  line.option("--pin", pins, "nodes in whose name REGEX is found run on DEVICE (a number or a name)")
      .type("REGEX=DEVICE")
      .group("Split");
  line.flag("--ignore-annotations", ignore_annotations, "search a placement even if the model carries one")
      .group("Split");
}

void SplitFlags::keep_placement(const Model& model, const Cluster& cluster, const Console& console,
                                CompileOptions& options) const {
  const std::optional<Model::Annotation> annotation = model.annotation();
  if (!annotation || ignore_annotations || !pins.empty()) return;
  int stages = 0;
  for (const auto& [node, stage] : annotation->stage_of_node) stages = std::max(stages, stage + 1);
  if (stages > cluster.device_count()) {
    console.note(fmt::format("the placement \"{}\" in the model has {} devices and is not used",
                             annotation->configuration, stages));
    return;
  }
  console.note(fmt::format("the placement \"{}\" in the model is kept (--ignore-annotations searches another)",
                           annotation->configuration));
  options.assignment = annotation->stage_of_node;
}

void SplitFlags::apply(const Cluster& cluster, CompileOptions& options) const {
  options.microbatches = microbatches;
  options.schedule = schedule;
  const bool has_chunks = schedule == "interleaved" || schedule == "auto";
  if (chunks && !has_chunks)
    throw Error(ErrorId::M001, "--chunks", fmt::format("schedule {} has none", schedule),
                "give --schedule interleaved");
  options.chunks = chunks.value_or(options.chunks);
  options.may_fuse = fuse == "auto";
  options.may_recompute = recompute == "auto";
  options.may_offload = offload == "auto";
  if (host_memory) {
    options.host_memory_bytes = parse_bytes(*host_memory);
    if (!options.host_memory_bytes)
      throw Error(ErrorId::M003, "--host-memory " + *host_memory, "is not a size", "for example 16GiB");
  }
  options.objective = objective;
  options.precision = precision;
  for (const std::string& pin : pins) {
    const size_t equals = pin.rfind('=');
    if (equals == std::string::npos || equals == 0) {
      throw Error(ErrorId::M003, "--pin " + pin, "is not of the form REGEX=DEVICE", "for example --pin encoder/=0");
    }
    const std::string target = pin.substr(equals + 1);
    std::optional<int64_t> device = parse_integer(target);
    for (int d = 0; d < cluster.device_count() && !device; ++d) {
      if (cluster.device_name(d) == target) device = d;
    }
    if (!device || *device < 0 || *device >= cluster.device_count()) {
      throw Error(ErrorId::M003, "--pin " + pin, fmt::format("there is no device '{}'", target),
                  fmt::format("devices are 0 to {}", cluster.device_count() - 1));
    }
    options.pins.push_back({pin.substr(0, equals), static_cast<int>(*device)});
  }
}

void TrainingFlags::add(CommandLine& line, std::optional<Flag> train) {
  const size_t first = line.flags().size();
  line.option("--loss", loss, "cross-entropy | nll | mse | l1 | bce-with-logits | none").group("Training");
  line.option("--loss-input", loss_input, "the output that the loss is taken of").type("OUTPUT").group("Training");
  line.option("--ignore-label", ignored_label,
              "labels that count nothing, for example -100: the loss is the mean over the others of the batch")
      .type("LABEL")
      .group("Training");
  line.option("--optimizer", optimizer, "sgd | momentum | adam | adamw, with settings: adam,lr=0.001")
      .group("Training");
  line.option("--group", groups, "parameters whose whole name matches REGEX have their own optimizer")
      .type("REGEX=OPTIMIZER")
      .group("Training");
  line.option("--clip-norm", clip_norm, "scale gradients so that their norm is at most this")
      .type("NORM")
      .group("Training")
      .not_negative();
  line.option("--freeze", freeze, "parameters whose whole name matches are not trained")
      .type("REGEX")
      .group("Training");
  if (!train) return;
  std::vector<Flag> flags = line.flags();
  for (size_t i = first; i < flags.size(); ++i) flags[i].needs(*train);
}

TrainingOptions TrainingFlags::options() const {
  TrainingOptions result;
  result.loss = loss;
  result.loss_output = loss_input;
  result.ignored_label = ignored_label;
  result.optimizer = optimizer;
  for (const std::string& group : groups) result.groups.push_back(name_and_value("--group", group));
  result.clip_norm = clip_norm;
  result.frozen = freeze;
  return result;
}

namespace {

/// How long each stage of the compiler takes (MPC_TIME_PASSES).
class StageTimes {
 public:
  void begin(std::string_view stage) {
    end();
    stages_.emplace_back(stage, 0);
    start_ = Clock::now();
  }
  void end() {
    if (!stages_.empty()) stages_.back().second = std::chrono::duration<double>(Clock::now() - start_).count();
  }
  void print(const Console& console) const {
    for (const auto& [stage, seconds] : stages_) console.note(fmt::format("{:<20} {}", stage, seconds_text(seconds)));
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_;
  std::vector<std::pair<std::string, double>> stages_;
};

}  // namespace

std::optional<Plan> compile_or_report(Console& console, const Model& model, const Cluster& cluster,
                                      CompileOptions options) {
  CompileResult result;
  {
    constexpr int64_t kParts = 1000;
    Progress progress(console, "planning", kParts, "parts");
    StageTimes times;
    options.progress = [&](std::string_view stage, double share) {
      progress.update(static_cast<int64_t>(share * kParts), stage);
      times.begin(stage);
    };
    options.dump_folder = console.environment.dump_dir;
    options.verify_passes = console.environment.verifies_passes;
    result = compile(model, cluster, options);
    times.end();
    progress.clear();
    if (console.environment.times_passes) times.print(console);
  }
  if (result) return result.plan;
  console.json_text(result.report_json());
  console.say(result.report_text());
  std::string needs;
  for (const DeviceNeed& need : result.reasons.needs) {
    needs += fmt::format("{}{} needs {} and may use {}", needs.empty() ? "" : ", ", need.name, bytes_text(need.bytes),
                         bytes_text(need.capacity_bytes));
  }
  Console errors = console;
  errors.json_path.clear();  // the answer is there already
  errors.report(Error(ErrorId::M050, model.path(), needs.empty() ? "no plan fits" : "no plan fits: " + needs,
                      result.reasons.suggestions.empty() ? "" : result.reasons.suggestions.front()));
  return std::nullopt;
}

void tell_warnings(const Console& console, const Plan& plan) {
  for (const std::string& warning : plan.warnings()) console.note("warning: " + warning);
}

}  // namespace mpc::tools
