#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "executor/device/accelerators.h"
#include "executor/host/exchange.h"
#include "executor/host/program.h"

// Carries out on streams what a program asks of devices that are not the host. Everything is enqueued and nothing is
// waited for, so that one thread can enqueue a whole step in the plan's total order, or a thread per lane its part, or
// a capture can record it. Pinned buffers, events and routes are made once.

namespace mpc::executor {

/// How a transfer between two devices is made.
enum class Transport : uint8_t {
  automatic,    // the best that the link can do
  device_copy,  // within one GPU
  peer,         // from GPU to GPU
  staged,       // through pinned host memory
  nccl,         // by a send and a receive of NCCL
};
std::string_view transport_name(Transport transport);
std::optional<Transport> parse_transport(std::string_view name);
/// The names of all transports, in their order.
std::vector<std::string> transport_names();

struct DeviceQueueOptions {
  Transport transport = Transport::automatic;
  bool is_timed = false;  // measure every instruction
};

class DeviceQueues {
 public:
  /// Chooses and probes the route of every link: a pattern is sent and read back. Arenas hold nothing yet.
  /// @throws Error(M081) when a link does not deliver, or cannot do the transport that was asked for; Error(M070).
  DeviceQueues(const Program& program, Accelerators& accelerators, const DeviceQueueOptions& options);
  ~DeviceQueues();
  DeviceQueues(const DeviceQueues&) = delete;
  DeviceQueues& operator=(const DeviceQueues&) = delete;

  bool is_on_stream(PlanIndex queue) const { return accelerators_.stream(queue) != nullptr; }
  /// Is every queue on a stream?
  bool is_all_on_streams() const { return is_all_on_streams_; }

  // What a step does on the host before its streams run, and after they are done.
  void set_step(int64_t step, uint64_t seed);
  void stage_feed(PlanIndex instruction, const HostInputs& inputs);
  void collect_fetch(PlanIndex instruction, HostOutputs& outputs) const;
  /// @throws Error(M033) naming the node that read an index or label outside of its range.
  void check_faults() const;

  // Enqueued on the stream of the instruction's queue.
  void begin_queue(PlanIndex queue);  // before its first instruction
  void end_queue(PlanIndex queue);    // after its last
  void enqueue_feed(PlanIndex instruction);
  void enqueue_fetch(PlanIndex instruction);
  void enqueue_transfer(PlanIndex recv);
  void enqueue_fill(PlanIndex queue, std::span<std::byte> memory, std::byte value);
  void record(PlanIndex event, PlanIndex queue);
  /// Makes the queue's stream wait for an event that a stream records; nothing for an event of the host.
  void wait(PlanIndex event, PlanIndex queue);

  // For the host: blocks the calling thread.
  void wait_on_host(PlanIndex event);
  void sync_queue(PlanIndex queue);
  void sync_all();
  /// Content of a tensor as the queue leaves it now.
  std::vector<std::byte> download(PlanIndex queue, const TensorView& tensor);

  // A step as one graph.
  bool has_graph() const { return graph_ != nullptr; }
  void begin_capture();
  void end_capture();
  void launch_graph();

  // is_timed: the time of an instruction, in seconds from the start of its queue.
  void mark_start(PlanIndex instruction);
  void mark_end(PlanIndex instruction);
  double start_s(PlanIndex instruction) const;
  double end_s(PlanIndex instruction) const;

  /// The routes that were chosen.
  struct Route {
    DeviceId from;
    DeviceId to;
    Transport transport;
  };
  const std::vector<Route>& routes() const { return routes_; }

 private:
  struct Buffer {  // pinned
    std::byte* data = nullptr;
    int64_t bytes = 0;
    mpc_cuda_device* device = nullptr;
  };
  DeviceStream& stream_of(PlanIndex instruction) const;
  mpc_cuda_event* make_event(const DeviceStream& stream, bool is_timed);
  Buffer make_buffer(const DeviceStream& stream, int64_t bytes);
  void make_events();
  void make_buffers();
  void make_routes();
  size_t route_of(DeviceId from, DeviceId to, DeviceStream& stream);
  Transport best_transport(DeviceId from, DeviceId to) const;
  void move(const Route& route, const Buffer& staging, const DeviceStream& stream, const std::byte* from, std::byte* to,
            int64_t bytes) const;
  bool delivers(const Route& route, const Buffer& staging, const DeviceStream& stream) const;
  double seconds_between(mpc_cuda_event* from, mpc_cuda_event* to, const std::string& where) const;
  void free_all() noexcept;

  const Program& program_;
  const Plan& plan_;
  Accelerators& accelerators_;
  const mpc_cuda_plugin& plugin_;
  DeviceQueueOptions options_;
  bool is_all_on_streams_ = true;

  std::vector<mpc_cuda_event*> owned_events_;
  std::vector<Buffer> owned_buffers_;
  std::vector<mpc_cuda_event*> events_;         // per event of the plan; null: the host records it
  std::vector<mpc_cuda_event*> bases_;          // is_timed: per queue
  std::vector<mpc_cuda_event*> starts_, ends_;  // is_timed: per instruction
  std::vector<mpc_cuda_event*> joins_;          // per stream, for captures
  std::vector<Buffer> staging_;                 // per instruction: feeds and fetches
  std::vector<Route> routes_;
  std::vector<Buffer> route_staging_;  // per route
  std::vector<size_t> route_of_recv_;  // per instruction
  mpc_cuda_graph* graph_ = nullptr;
};

}  // namespace mpc::executor
