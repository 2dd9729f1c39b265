#include "tests/cuda/fake_device.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "compiler/base/error.h"
#include "executor/cuda/copy_text.h"
#include "executor/cuda/kernel.h"
#include "executor/cuda/launch.h"
#include "executor/cuda/node.h"
#include "tests/cuda/stream_order.h"

// One mutex guards everything: lanes of several threads use the plugin at the same time, and what is tested is order,
// not speed.

struct mpc_cuda_device {
  int ordinal = 0;
};

namespace {

/// A piece of work of a stream. `record` and `wait` name the version of an event.
struct Work {
  enum class Kind { run, record, wait } kind = Kind::run;
  std::function<void()> run;
  mpc_cuda_event* event = nullptr;
  int64_t version = 0;
};

}  // namespace

struct mpc_cuda_stream {
  mpc_cuda_device* device = nullptr;
  std::deque<Work> work;
  mpc_cuda_graph* capture = nullptr;  // what is enqueued goes there
  size_t lane = 0;                    // its place in the capture
  bool has_nccl = false;              // its communicators were made
};

struct mpc_cuda_event {
  int64_t enqueued = 0;  // versions recorded so far, by the host's order
  int64_t done = 0;
  std::chrono::steady_clock::time_point time = {};  // when it was recorded last
  mpc_cuda_graph* capture = nullptr;                // recorded within a capture
};

struct mpc_cuda_graph {
  std::vector<std::vector<Work>> lanes;
  std::vector<mpc_cuda_stream*> streams;
  std::vector<mpc::test::StreamOrder::Access> accesses;  // of all its work: a launch is one piece of work
};

struct mpc_cuda_kernel {
  std::unique_ptr<mpc::cuda::Kernel> kernel;
  std::vector<int64_t> input_bytes;
  std::vector<int64_t> output_bytes;
  std::string op;
  std::string name;
};

namespace mpc::test {
namespace {

std::mutex mutex;
FakeOptions options;
FakeCounts counts;
StreamOrder order;
std::mt19937_64 random_engine;
std::vector<mpc_cuda_stream*> all_streams;
std::map<const void*, std::pair<int64_t, int>> memory_blocks;  // begin -> bytes, GPU (-1: pinned)

int32_t fail(mpc_cuda_error* error, int32_t code, const std::string& text, int64_t free_bytes = -1) {
  error->code = code;
  error->is_sticky = 0;
  error->free_bytes = free_bytes;
  mpc::cuda::copy_text(error->text, text);
  return code;
}

/// Is the memory known to the device? Else a copy cannot be put off: the caller may free it.
bool is_device_or_pinned(const void* memory) {
  auto after = memory_blocks.upper_bound(memory);
  if (after == memory_blocks.begin()) return false;
  --after;
  return static_cast<const std::byte*>(memory) <
         static_cast<const std::byte*>(after->first) + std::max<int64_t>(after->second.first, 1);
}

void count_released() {
  if (--counts.live_objects == 0) order.start_over();
}

/// Does the first work of a lane that can go on. @return false when none can.
template <class Lanes>
bool do_one(Lanes& lanes) {
  std::vector<size_t> ready;
  for (size_t i = 0; i < lanes.size(); ++i) {
    auto& work = *lanes[i];
    if (work.empty()) continue;
    const Work& next = work.front();
    if (next.kind == Work::Kind::wait && next.event->done < next.version) continue;
    ready.push_back(i);
  }
  if (ready.empty()) return false;
  auto& work = *lanes[ready[random_engine() % ready.size()]];
  const Work next = std::move(work.front());
  work.pop_front();
  if (next.kind == Work::Kind::run) next.run();
  if (next.kind == Work::Kind::record) {
    next.event->done = std::max(next.event->done, next.version);
    next.event->time = std::chrono::steady_clock::now();
  }
  return true;
}

std::vector<std::deque<Work>*> all_work() {
  std::vector<std::deque<Work>*> lanes;
  for (mpc_cuda_stream* stream : all_streams) lanes.push_back(&stream->work);
  return lanes;
}

template <class Done>
int32_t run_until(Done&& done, mpc_cuda_error* error) {
  auto lanes = all_work();
  while (!done()) {
    if (!do_one(lanes)) return fail(error, MPC_CUDA_FAILED, "the streams wait for each other");
  }
  return MPC_CUDA_OK;
}

/// Notes what the next work of the stream does to memory.
void note(mpc_cuda_stream* stream, const std::string& what, const std::vector<StreamOrder::Access>& accesses) {
  order.work(stream, what, accesses);
  if (stream->capture == nullptr) return;
  auto& all = stream->capture->accesses;
  all.insert(all.end(), accesses.begin(), accesses.end());
}

void enqueue(mpc_cuda_stream* stream, Work work) {
  if (stream->capture != nullptr) {
    stream->capture->lanes[stream->lane].push_back(std::move(work));
  } else {
    stream->work.push_back(std::move(work));
  }
}

void join_capture(mpc_cuda_stream* stream, mpc_cuda_graph* graph) {
  if (stream->capture == graph) return;
  stream->capture = graph;
  stream->lane = graph->lanes.size();
  graph->lanes.emplace_back();
  graph->streams.push_back(stream);
}

int32_t device_count(int32_t* count, mpc_cuda_error*) {
  *count = options.devices;
  return MPC_CUDA_OK;
}

int32_t device_facts(int32_t ordinal, mpc_cuda_facts* facts, mpc_cuda_error*) {
  *facts = {};
  facts->ordinal = ordinal;
  facts->major = 9;
  facts->driver = 13000;
  facts->memory_bytes = options.memory_bytes;
  facts->free_bytes = facts->memory_bytes;
  mpc::cuda::copy_text(facts->name, "a GPU that is not there");
  return MPC_CUDA_OK;
}

int32_t library(int32_t, mpc_cuda_library*) {
  return 0;
}

int32_t open_device(int32_t ordinal, mpc_cuda_device** device, mpc_cuda_error*) {
  const std::lock_guard lock(mutex);
  *device = new mpc_cuda_device{ordinal};
  ++counts.live_objects;
  return MPC_CUDA_OK;
}

void close_device(mpc_cuda_device* device) {
  const std::lock_guard lock(mutex);
  delete device;
  count_released();
}

int32_t allocate_on(int gpu, int64_t bytes, void** memory, mpc_cuda_error* error) {
  const std::lock_guard lock(mutex);
  int64_t used = 0;
  for (const auto& [begin, block] : memory_blocks) used += block.second == gpu ? block.first : 0;
  if (gpu >= 0 && bytes > options.memory_bytes - used) {
    return fail(error, MPC_CUDA_OUT_OF_MEMORY, "cudaMalloc: out of memory", options.memory_bytes - used);
  }
  constexpr size_t kAlignment = 256;
  const size_t rounded = (static_cast<size_t>(std::max<int64_t>(bytes, 1)) + kAlignment - 1) / kAlignment * kAlignment;
  *memory = std::aligned_alloc(kAlignment, rounded);
  if (*memory == nullptr) return fail(error, MPC_CUDA_OUT_OF_MEMORY, "the host has no memory left");
  std::memset(*memory, 0xA5, rounded);  // what the last owner left
  memory_blocks[*memory] = {bytes, gpu};
  order.forget(*memory, bytes);
  ++counts.allocations;
  ++counts.live_objects;
  return MPC_CUDA_OK;
}

int32_t allocate(mpc_cuda_device* device, int64_t bytes, void** memory, mpc_cuda_error* error) {
  return allocate_on(device->ordinal, bytes, memory, error);
}

int32_t allocate_host(mpc_cuda_device*, int64_t bytes, void** memory, mpc_cuda_error* error) {
  return allocate_on(-1, bytes, memory, error);
}

void release(mpc_cuda_device*, void* memory) {
  const std::lock_guard lock(mutex);
  memory_blocks.erase(memory);
  std::free(memory);
  count_released();
}

int32_t enable_peer(mpc_cuda_device* from, mpc_cuda_device* to, int32_t* is_enabled, mpc_cuda_error*) {
  *is_enabled = from->ordinal == to->ordinal || options.has_peer_access ? 1 : 0;
  return MPC_CUDA_OK;
}

int32_t make_stream(mpc_cuda_device* device, mpc_cuda_stream** stream, mpc_cuda_error*) {
  const std::lock_guard lock(mutex);
  *stream = new mpc_cuda_stream();
  (*stream)->device = device;
  all_streams.push_back(*stream);
  ++counts.live_objects;
  return MPC_CUDA_OK;
}

void destroy_stream(mpc_cuda_stream* stream) {
  const std::lock_guard lock(mutex);
  std::erase(all_streams, stream);
  delete stream;
  count_released();
}

int32_t sync_stream(mpc_cuda_stream* stream, mpc_cuda_error* error) {
  const std::lock_guard lock(mutex);
  if (stream->capture != nullptr) return fail(error, MPC_CUDA_FAILED, "synchronized while capturing");
  order.sync_stream(stream);
  return run_until([&] { return stream->work.empty(); }, error);
}

int32_t make_event(mpc_cuda_device*, int32_t, mpc_cuda_event** event, mpc_cuda_error*) {
  const std::lock_guard lock(mutex);
  *event = new mpc_cuda_event();
  ++counts.live_objects;
  return MPC_CUDA_OK;
}

void destroy_event(mpc_cuda_event* event) {
  const std::lock_guard lock(mutex);
  delete event;
  count_released();
}

int32_t record(mpc_cuda_stream* stream, mpc_cuda_event* event, mpc_cuda_error*) {
  const std::lock_guard lock(mutex);
  event->capture = stream->capture;
  order.record(stream, event);
  enqueue(stream, {Work::Kind::record, {}, event, ++event->enqueued});
  return MPC_CUDA_OK;
}

int32_t wait(mpc_cuda_stream* stream, mpc_cuda_event* event, mpc_cuda_error* error) {
  const std::lock_guard lock(mutex);
  if (stream->capture != nullptr && event->capture != stream->capture) {
    return fail(error, MPC_CUDA_FAILED, "a captured stream waits for an event outside of the capture");
  }
  if (options.forgets_waits) return MPC_CUDA_OK;
  order.wait(stream, event);
  if (event->capture != nullptr) join_capture(stream, event->capture);
  enqueue(stream, {Work::Kind::wait, {}, event, event->enqueued});  // of an event never recorded: nothing to wait for
  return MPC_CUDA_OK;
}

int32_t sync_event(mpc_cuda_event* event, mpc_cuda_error* error) {
  const std::lock_guard lock(mutex);
  if (event->capture != nullptr) return fail(error, MPC_CUDA_FAILED, "synchronized while capturing");
  const int64_t wanted = event->enqueued;
  order.sync_event(event);
  return run_until([&] { return event->done >= wanted; }, error);
}

int32_t elapsed_ms(mpc_cuda_event* from, mpc_cuda_event* to, float* milliseconds, mpc_cuda_error*) {
  const std::lock_guard lock(mutex);
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return MPC_CUDA_OK;
}

int32_t copy(mpc_cuda_stream* stream, void* to, const void* from, int64_t bytes, mpc_cuda_error* error) {
  const std::lock_guard lock(mutex);
  ++counts.staged_copies;
  note(stream, "copy", {{from, bytes, false}, {to, bytes, true}});
  enqueue(stream, {Work::Kind::run, [=] { std::memcpy(to, from, static_cast<size_t>(bytes)); }, nullptr, 0});
  if (is_device_or_pinned(to) && is_device_or_pinned(from)) return MPC_CUDA_OK;
  if (stream->capture != nullptr) return fail(error, MPC_CUDA_FAILED, "pageable memory in a capture");
  order.sync_stream(stream);
  return run_until([&] { return stream->work.empty(); }, error);
}

int32_t copy_peer(mpc_cuda_stream* stream, mpc_cuda_device* to_device, void* to, mpc_cuda_device* from_device,
                  const void* from, int64_t bytes, mpc_cuda_error*) {
  const std::lock_guard lock(mutex);
  const bool is_one_gpu = to_device->ordinal == from_device->ordinal;
  ++(is_one_gpu ? counts.device_copies : counts.peer_copies);
  if (!is_one_gpu && options.loses_copies) return MPC_CUDA_OK;
  note(stream, "copy between devices", {{from, bytes, false}, {to, bytes, true}});
  enqueue(stream, {Work::Kind::run, [=] { std::memcpy(to, from, static_cast<size_t>(bytes)); }, nullptr, 0});
  return MPC_CUDA_OK;
}

int32_t copy_nccl(mpc_cuda_stream* stream, mpc_cuda_device*, void* to, mpc_cuda_device*, const void* from,
                  int64_t bytes, mpc_cuda_error* error) {
  const std::lock_guard lock(mutex);
  if (!stream->has_nccl && stream->capture != nullptr) {
    return fail(error, MPC_CUDA_FAILED, "communicators of NCCL are made in a capture");
  }
  stream->has_nccl = true;
  ++counts.nccl_copies;
  note(stream, "copy by NCCL", {{from, bytes, false}, {to, bytes, true}});
  enqueue(stream, {Work::Kind::run, [=] { std::memcpy(to, from, static_cast<size_t>(bytes)); }, nullptr, 0});
  return MPC_CUDA_OK;
}

int32_t fill(mpc_cuda_stream* stream, void* memory, int32_t byte, int64_t bytes, mpc_cuda_error*) {
  const std::lock_guard lock(mutex);
  note(stream, "fill", {{memory, bytes, true}});
  enqueue(stream, {Work::Kind::run, [=] { std::memset(memory, byte, static_cast<size_t>(bytes)); }, nullptr, 0});
  return MPC_CUDA_OK;
}

int32_t begin_capture(mpc_cuda_stream* stream, mpc_cuda_error*) {
  const std::lock_guard lock(mutex);
  join_capture(stream, new mpc_cuda_graph());
  ++counts.graphs;
  ++counts.live_objects;
  return MPC_CUDA_OK;
}

int32_t end_capture(mpc_cuda_stream* stream, mpc_cuda_graph** graph, mpc_cuda_error* error) {
  const std::lock_guard lock(mutex);
  *graph = stream->capture;
  // Every other stream must have been joined: its last work is a record that the first stream waits for.
  std::set<std::pair<mpc_cuda_event*, int64_t>> waited;
  for (const Work& work : (*graph)->lanes.front()) {
    if (work.kind == Work::Kind::wait) waited.insert({work.event, work.version});
  }
  for (size_t lane = 1; lane < (*graph)->lanes.size(); ++lane) {
    const Work& last = (*graph)->lanes[lane].back();
    if (last.kind != Work::Kind::record || !waited.contains({last.event, last.version})) {
      return fail(error, MPC_CUDA_FAILED, "a stream of the capture was not joined");
    }
  }
  for (mpc_cuda_stream* captured : (*graph)->streams) captured->capture = nullptr;
  return MPC_CUDA_OK;
}

int32_t launch_graph(mpc_cuda_graph* graph, mpc_cuda_stream* stream, mpc_cuda_error*) {
  const std::lock_guard lock(mutex);
  const auto replay = [graph] {
    std::vector<std::deque<Work>> lanes;
    for (const auto& lane : graph->lanes) {
      for (const Work& work : lane) {
        if (work.event != nullptr) work.event->done = 0;  // a graph's edges are its own, at every launch
      }
      lanes.emplace_back(lane.begin(), lane.end());
    }
    std::vector<std::deque<Work>*> pointers;
    for (auto& lane : lanes) pointers.push_back(&lane);
    while (do_one(pointers)) {
    }
    for (const auto& lane : lanes) MPC_CHECK(lane.empty(), "the lanes of a graph wait for each other");
    // Events that were used outside of captures before count on from where they were.
    for (const auto& lane : graph->lanes) {
      for (const Work& work : lane) {
        if (work.event != nullptr) work.event->done = std::max(work.event->done, work.event->enqueued);
      }
    }
  };
  note(stream, "graph", graph->accesses);
  enqueue(stream, {Work::Kind::run, replay, nullptr, 0});
  return MPC_CUDA_OK;
}

void destroy_graph(mpc_cuda_graph* graph) {
  const std::lock_guard lock(mutex);
  delete graph;
  count_released();
}

std::vector<int64_t> bytes_of(const std::vector<executor::NodeSpec::Operand>& operands) {
  std::vector<int64_t> bytes;
  for (const auto& operand : operands) {
    bytes.push_back(operand.is_present ? byte_size(operand.shape, operand.dtype) : 0);
  }
  return bytes;
}

int32_t make_kernel(mpc_cuda_device*, const mpc_cuda_node* node, mpc_cuda_kernel** kernel, mpc_cuda_error* error) {
  const cuda::OwnedNode owned(*node);
  cuda::KernelOrReason found = cuda::find_own_kernel(owned.spec, {.allows_tf32 = owned.allows_tf32, .product = {}});
  if (found.kernel == nullptr) return fail(error, MPC_CUDA_UNSUPPORTED, found.reason);
  const std::lock_guard lock(mutex);
  *kernel = new mpc_cuda_kernel{
      std::move(found.kernel), bytes_of(owned.spec.inputs), bytes_of(owned.spec.outputs), node->op, {}};
  (*kernel)->name = std::string((*kernel)->kernel->name());
  ++counts.live_objects;
  return MPC_CUDA_OK;
}

int64_t kernel_workspace(const mpc_cuda_kernel* kernel) {
  return kernel->kernel->workspace_bytes();
}
const char* kernel_name(const mpc_cuda_kernel* kernel) {
  return kernel->name.c_str();
}
const char* kernel_declined(const mpc_cuda_kernel*) {
  return "";
}

int32_t run_kernel(mpc_cuda_kernel* kernel, mpc_cuda_stream* stream, const mpc_cuda_call* call, mpc_cuda_error*) {
  const std::lock_guard lock(mutex);
  ++(stream->capture == nullptr ? counts.kernels : counts.replayed);
  const std::vector<void*> inputs(call->inputs, call->inputs + kernel->input_bytes.size());
  const std::vector<void*> outputs(call->outputs, call->outputs + kernel->output_bytes.size());
  std::vector<StreamOrder::Access> accesses = {{call->step, sizeof(mpc_cuda_step), false},
                                               {call->workspace, kernel->kernel->workspace_bytes(), true}};
  for (size_t i = 0; i < inputs.size(); ++i) accesses.push_back({inputs[i], kernel->input_bytes[i], false});
  for (size_t i = 0; i < outputs.size(); ++i) accesses.push_back({outputs[i], kernel->output_bytes[i], true});
  note(stream, kernel->op, accesses);
  const auto run = [kernel, inputs, outputs, plain = *call] {
    cuda::Launch launch;
    launch.inputs = inputs;
    launch.outputs = outputs;
    launch.workspace = plain.workspace;
    launch.step = plain.step;
    launch.microbatch = plain.microbatch;
    launch.tag = plain.tag;
    const int64_t before = cuda::launches_on_host();
    kernel->kernel->run(launch);
    counts.launches += cuda::launches_on_host() - before;
  };
  enqueue(stream, {Work::Kind::run, run, nullptr, 0});
  return MPC_CUDA_OK;
}

void destroy_kernel(mpc_cuda_kernel* kernel) {
  const std::lock_guard lock(mutex);
  delete kernel;
  count_released();
}

constexpr mpc_cuda_plugin kPlugin = {
    .version = MPC_CUDA_ABI_VERSION,
    .bytes = sizeof(mpc_cuda_plugin),
    .device_count = &device_count,
    .device_facts = &device_facts,
    .library = &library,
    .open = &open_device,
    .close = &close_device,
    .allocate = &allocate,
    .release = &release,
    .allocate_host = &allocate_host,
    .release_host = &release,
    .enable_peer = &enable_peer,
    .make_stream = &make_stream,
    .destroy_stream = &destroy_stream,
    .sync_stream = &sync_stream,
    .make_event = &make_event,
    .destroy_event = &destroy_event,
    .record = &record,
    .wait = &wait,
    .sync_event = &sync_event,
    .elapsed_ms = &elapsed_ms,
    .copy = &copy,
    .copy_peer = &copy_peer,
    .copy_nccl = &copy_nccl,
    .fill = &fill,
    .begin_capture = &begin_capture,
    .end_capture = &end_capture,
    .launch_graph = &launch_graph,
    .destroy_graph = &destroy_graph,
    .make_kernel = &make_kernel,
    .kernel_workspace = &kernel_workspace,
    .kernel_name = &kernel_name,
    .kernel_declined = &kernel_declined,
    .run_kernel = &run_kernel,
    .destroy_kernel = &destroy_kernel,
};

}  // namespace

const mpc_cuda_plugin* fake_plugin(const FakeOptions& wanted) {
  options = wanted;
  counts = {};
  order.clear();
  random_engine.seed(wanted.seed);
  return &kPlugin;
}

const FakeCounts& fake_counts() {
  counts.compared = order.compared();
  counts.unordered = order.unordered();
  return counts;
}

std::string fake_unordered() {
  return order.first_unordered();
}

}  // namespace mpc::test
