// Streams, events, copies, and graphs of what was enqueued.

#include "executor/cuda/plugin.h"

namespace mpc::cuda {

int32_t make_stream(mpc_cuda_device* device, mpc_cuda_stream** stream, mpc_cuda_error* error) {
  return guarded(device->ordinal, error, [&] {
    auto made = std::make_unique<mpc_cuda_stream>();
    made->device = device;
    MPC_CUDA(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking));
    *stream = made.release();
  });
}

void destroy_stream(mpc_cuda_stream* stream) {
  released(stream->device->ordinal, [&] {
    stream->nccl.reset();
    cudaStreamDestroy(stream->stream);
  });
  (void)stream->nccl.release();  // still there only after a sticky error, when nothing can be given back
  delete stream;
}

int32_t sync_stream(mpc_cuda_stream* stream, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] { MPC_CUDA(cudaStreamSynchronize(stream->stream)); });
}

int32_t make_event(mpc_cuda_device* device, int32_t is_timed, mpc_cuda_event** event, mpc_cuda_error* error) {
  return guarded(device->ordinal, error, [&] {
    auto made = std::make_unique<mpc_cuda_event>();
    made->device = device;
    MPC_CUDA(cudaEventCreateWithFlags(&made->event, is_timed != 0 ? cudaEventDefault : cudaEventDisableTiming));
    *event = made.release();
  });
}

void destroy_event(mpc_cuda_event* event) {
  released(event->device->ordinal, [&] { cudaEventDestroy(event->event); });
  delete event;
}

int32_t record(mpc_cuda_stream* stream, mpc_cuda_event* event, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] { MPC_CUDA(cudaEventRecord(event->event, stream->stream)); });
}

int32_t wait(mpc_cuda_stream* stream, mpc_cuda_event* event, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error,
                 [&] { MPC_CUDA(cudaStreamWaitEvent(stream->stream, event->event, 0)); });
}

int32_t sync_event(mpc_cuda_event* event, mpc_cuda_error* error) {
  return guarded(event->device->ordinal, error, [&] { MPC_CUDA(cudaEventSynchronize(event->event)); });
}

int32_t elapsed_ms(mpc_cuda_event* from, mpc_cuda_event* to, float* milliseconds, mpc_cuda_error* error) {
  return guarded(from->device->ordinal, error,
                 [&] { MPC_CUDA(cudaEventElapsedTime(milliseconds, from->event, to->event)); });
}

int32_t copy(mpc_cuda_stream* stream, void* to, const void* from, int64_t bytes, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] {
    MPC_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream->stream));
  });
}

int32_t copy_peer(mpc_cuda_stream* stream, mpc_cuda_device* to_device, void* to, mpc_cuda_device* from_device,
                  const void* from, int64_t bytes, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] {
    const size_t count = static_cast<size_t>(bytes);
    if (to_device->ordinal == from_device->ordinal) {
      MPC_CUDA(cudaMemcpyAsync(to, from, count, cudaMemcpyDeviceToDevice, stream->stream));
    } else {
      MPC_CUDA(cudaMemcpyPeerAsync(to, to_device->ordinal, from, from_device->ordinal, count, stream->stream));
    }
  });
}

int32_t copy_nccl(mpc_cuda_stream* stream, mpc_cuda_device* to_device, void* to, mpc_cuda_device* from_device,
                  const void* from, int64_t bytes, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] {
    if (stream->nccl == nullptr || !stream->nccl->joins(from_device->ordinal, to_device->ordinal)) {
      stream->nccl = make_nccl_link(from_device->ordinal, to_device->ordinal, stream->device->ordinal, stream->stream);
    }
    stream->nccl->copy(from, to, bytes);
  });
}

int32_t fill(mpc_cuda_stream* stream, void* memory, int32_t byte, int64_t bytes, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error,
                 [&] { MPC_CUDA(cudaMemsetAsync(memory, byte, static_cast<size_t>(bytes), stream->stream)); });
}

int32_t begin_capture(mpc_cuda_stream* stream, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] {
    // Thread-local: what other sessions of the process do meanwhile does not end this capture.
    MPC_CUDA(cudaStreamBeginCapture(stream->stream, cudaStreamCaptureModeThreadLocal));
  });
}

int32_t end_capture(mpc_cuda_stream* stream, mpc_cuda_graph** graph, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] {
    cudaGraph_t captured = nullptr;
    MPC_CUDA(cudaStreamEndCapture(stream->stream, &captured));
    cudaGraphExec_t executable = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&executable, captured, 0);
    cudaGraphDestroy(captured);
    if (status != cudaSuccess) throw_cuda(status, "cudaGraphInstantiate", __FILE__, __LINE__);
    auto made = std::make_unique<mpc_cuda_graph>();
    made->device = stream->device;
    made->graph = executable;
    *graph = made.release();
  });
}

int32_t launch_graph(mpc_cuda_graph* graph, mpc_cuda_stream* stream, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] { MPC_CUDA(cudaGraphLaunch(graph->graph, stream->stream)); });
}

void destroy_graph(mpc_cuda_graph* graph) {
  released(graph->device->ordinal, [&] { cudaGraphExecDestroy(graph->graph); });
  delete graph;
}

}  // namespace mpc::cuda
