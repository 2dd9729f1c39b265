#pragma once

#include <stdint.h>

// The C interface between mpc and its CUDA plugin (libmpc_cuda.so), version 1. Only plain data and function pointers:
// the plugin is built against this file and nothing else of the program that loads it.
//
// Every function that can fail returns a code: 0, or one of mpc_cuda_code, with `error` filled in. Nothing throws.
// A sticky error means that the CUDA context is gone: every later call fails the same way, and memory is not released.
// All functions may be called from any thread, one at a time per object.

#ifdef __cplusplus
extern "C" {
#endif

#define MPC_CUDA_ABI_VERSION 1
#define MPC_CUDA_ENTRY "mpc_cuda_plugin_v1"
#define MPC_CUDA_MAX_RANK 8

enum mpc_cuda_code {
  MPC_CUDA_OK = 0,
  MPC_CUDA_UNSUPPORTED = 4,   /* a kernel declines; error.text says why */
  MPC_CUDA_OUT_OF_MEMORY = 7, /* error.free_bytes says what was free; the device stays usable */
  MPC_CUDA_FAILED = 8
};

typedef struct mpc_cuda_error {
  int32_t code;
  int32_t is_sticky;
  int64_t free_bytes; /* out of memory: free on the device, else -1 */
  char text[1024];    /* call, CUDA's name and text of the error, device, file and line */
} mpc_cuda_error;

/* A physical GPU. */
typedef struct mpc_cuda_facts {
  int32_t ordinal;
  int32_t major;
  int32_t minor;
  int32_t multiprocessors;
  int64_t memory_bytes;
  int64_t free_bytes;
  int32_t driver; /* the CUDA version that the driver is for: 13000 */
  char name[128];
} mpc_cuda_facts;

/* A library that the plugin opens at run time. */
typedef struct mpc_cuda_library {
  int32_t is_there;
  int32_t version;
  char name[32];
  char path[512];  /* where it was found; or why it was not */
  char costs[160]; /* what cannot be done without it */
} mpc_cuda_library;

typedef struct mpc_cuda_device mpc_cuda_device; /* a logical device: a share of a GPU with handles of its own */
typedef struct mpc_cuda_stream mpc_cuda_stream;
typedef struct mpc_cuda_event mpc_cuda_event;
typedef struct mpc_cuda_graph mpc_cuda_graph;
typedef struct mpc_cuda_kernel mpc_cuda_kernel;

/* Attribute kinds are those of mpc::Attribute, in its order. */
typedef struct mpc_cuda_attribute {
  const char* name;
  int32_t kind; /* 0 integer, 1 number, 2 text, 3 integers, 4 numbers, 5 texts */
  int64_t integer;
  double number;
  const char* text;
  const int64_t* integers;
  const double* numbers;
  const char* const* texts;
  int64_t count; /* of integers, numbers or texts */
} mpc_cuda_attribute;

typedef struct mpc_cuda_operand {
  int32_t is_present;
  int32_t dtype; /* mpc::DType */
  int32_t rank;
  int64_t dims[MPC_CUDA_MAX_RANK];
} mpc_cuda_operand;

typedef struct mpc_cuda_node {
  const char* op;        /* name in ops.def */
  const char* precision; /* "f32": strict; "tf32": matrix products of f32 may round their operands to TF32 */
  const mpc_cuda_attribute* attributes;
  int32_t attribute_count;
  const mpc_cuda_operand* inputs;
  int32_t input_count;
  const mpc_cuda_operand* outputs;
  int32_t output_count;
} mpc_cuda_node;

enum mpc_cuda_fault {
  MPC_CUDA_FAULT_NONE = 0,
  MPC_CUDA_FAULT_INDEX = 1,    /* index or label fault_value is out of range for fault_bound */
  MPC_CUDA_FAULT_DIVISION = 2, /* an integer is divided by 0 */
  MPC_CUDA_FAULT_POWER = 3,    /* the integer 0 is raised to the negative power fault_value */
  MPC_CUDA_FAULT_LENGTH = 4    /* a sequence of fault_value steps, of fault_bound that are there */
};

/* What changes from step to step, in device memory so that a captured graph sees it; and what kernels report. */
typedef struct mpc_cuda_step {
  int64_t step; /* optimizer steps done before this one */
  uint64_t seed;
  int32_t fault;     /* an mpc_cuda_fault: what the first kernel that met one could not compute */
  int32_t fault_tag; /* mpc_cuda_call.tag of its call */
  int64_t fault_value;
  int64_t fault_bound;
} mpc_cuda_step;

typedef struct mpc_cuda_call {
  void* const* inputs; /* device memory, null for an absent operand; as many as the node has */
  void* const* outputs;
  void* workspace; /* device memory of at least kernel_workspace bytes, aligned to 256 */
  mpc_cuda_step* step;
  int32_t microbatch;
  int32_t tag;
} mpc_cuda_call;

typedef struct mpc_cuda_plugin {
  uint32_t version; /* MPC_CUDA_ABI_VERSION */
  uint32_t bytes;   /* sizeof(mpc_cuda_plugin) */

  /* What is there. `device_count` gives 0 devices as MPC_CUDA_OK; without a usable driver it fails and says why. */
  int32_t (*device_count)(int32_t* count, mpc_cuda_error* error);
  int32_t (*device_facts)(int32_t ordinal, mpc_cuda_facts* facts, mpc_cuda_error* error);
  int32_t (*library)(int32_t index, mpc_cuda_library* library); /* 0 when there is no such index */

  /* Logical devices. Several may be opened on one GPU. Memory is aligned to 256. */
  int32_t (*open)(int32_t ordinal, mpc_cuda_device** device, mpc_cuda_error* error);
  void (*close)(mpc_cuda_device* device);
  int32_t (*allocate)(mpc_cuda_device* device, int64_t bytes, void** memory, mpc_cuda_error* error);
  void (*release)(mpc_cuda_device* device, void* memory);
  int32_t (*allocate_host)(mpc_cuda_device* device, int64_t bytes, void** memory, mpc_cuda_error* error); /* pinned */
  void (*release_host)(mpc_cuda_device* device, void* memory);
  /* 1 when `to` can read and write `from`'s memory; enables it. */
  int32_t (*enable_peer)(mpc_cuda_device* from, mpc_cuda_device* to, int32_t* is_enabled, mpc_cuda_error* error);

  int32_t (*make_stream)(mpc_cuda_device* device, mpc_cuda_stream** stream, mpc_cuda_error* error);
  void (*destroy_stream)(mpc_cuda_stream* stream);
  int32_t (*sync_stream)(mpc_cuda_stream* stream, mpc_cuda_error* error);
  int32_t (*make_event)(mpc_cuda_device* device, int32_t is_timed, mpc_cuda_event** event, mpc_cuda_error* error);
  void (*destroy_event)(mpc_cuda_event* event);
  int32_t (*record)(mpc_cuda_stream* stream, mpc_cuda_event* event, mpc_cuda_error* error);
  int32_t (*wait)(mpc_cuda_stream* stream, mpc_cuda_event* event, mpc_cuda_error* error);
  int32_t (*sync_event)(mpc_cuda_event* event, mpc_cuda_error* error);
  int32_t (*elapsed_ms)(mpc_cuda_event* from, mpc_cuda_event* to, float* milliseconds, mpc_cuda_error* error);

  /* Enqueued on `stream`. `copy`: either end may be host memory (pinned, or the call may block). `copy_peer`: between
     the memories of two devices, which may be on one GPU. */
  int32_t (*copy)(mpc_cuda_stream* stream, void* to, const void* from, int64_t bytes, mpc_cuda_error* error);
  int32_t (*copy_peer)(mpc_cuda_stream* stream, mpc_cuda_device* to_device, void* to, mpc_cuda_device* from_device,
                       const void* from, int64_t bytes, mpc_cuda_error* error);
  /* What copy_peer does, by NCCL: a send and a receive in one group, within one GPU by a communicator of one rank.
     `stream` is of one of the two devices, and copies between the same two each time. The first copy on a stream makes
     the communicators and may not be captured. */
  int32_t (*copy_nccl)(mpc_cuda_stream* stream, mpc_cuda_device* to_device, void* to, mpc_cuda_device* from_device,
                       const void* from, int64_t bytes, mpc_cuda_error* error);
  int32_t (*fill)(mpc_cuda_stream* stream, void* memory, int32_t byte, int64_t bytes, mpc_cuda_error* error);

  /* What is enqueued on `stream`, and on streams that wait for it, between the two calls becomes a graph. */
  int32_t (*begin_capture)(mpc_cuda_stream* stream, mpc_cuda_error* error);
  int32_t (*end_capture)(mpc_cuda_stream* stream, mpc_cuda_graph** graph, mpc_cuda_error* error);
  int32_t (*launch_graph)(mpc_cuda_graph* graph, mpc_cuda_stream* stream, mpc_cuda_error* error);
  void (*destroy_graph)(mpc_cuda_graph* graph);

  /* A kernel is prepared for a node's shapes and one stream at a time. MPC_CUDA_UNSUPPORTED: it has none. */
  int32_t (*make_kernel)(mpc_cuda_device* device, const mpc_cuda_node* node, mpc_cuda_kernel** kernel,
                         mpc_cuda_error* error);
  int64_t (*kernel_workspace)(const mpc_cuda_kernel* kernel); /* bytes */
  const char* (*kernel_name)(const mpc_cuda_kernel* kernel);
  const char* (*kernel_declined)(const mpc_cuda_kernel* kernel); /* why better ones were not taken, or "" */
  int32_t (*run_kernel)(mpc_cuda_kernel* kernel, mpc_cuda_stream* stream, const mpc_cuda_call* call,
                        mpc_cuda_error* error);
  void (*destroy_kernel)(mpc_cuda_kernel* kernel);
} mpc_cuda_plugin;

/* The one symbol that the plugin exports, under the name MPC_CUDA_ENTRY. */
typedef const mpc_cuda_plugin* (*mpc_cuda_entry)(void);

#ifdef __cplusplus
}
#endif
