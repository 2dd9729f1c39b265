# The sources of the plugin's own kernels. The plugin compiles them for the GPU, tests/cuda for the host.
set(MPC_CUDA_KERNEL_SOURCES
  attention.cu
  batch_norm.cu
  binary.cu
  convolution.cu
  elementwise.cu
  fused.cu
  gru.cu
  gru_grad.cu
  index.cu
  layer_norm.cu
  lrn.cu
  lstm.cu
  lstm_grad.cu
  movement.cu
  occurrences.cu
  pooling.cu
  product.cu
  recurrence.cu
  recurrence_weights.cu
  reduction.cu
  resize.cu
  softmax.cu
  top_k.cu
  training.cu)
list(TRANSFORM MPC_CUDA_KERNEL_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/executor/cuda/kernels/)
