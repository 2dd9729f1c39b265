#pragma once

#include "models/builder.h"

#include <cstdint>
#include <string_view>
#include <vector>

namespace mpc::zoo {

/// y = x W^T + b as Gemm, W (out, in), in `scope`. x (rows, in).
Value linear(Builder& g, std::string_view scope, const Value& x, int64_t in, int64_t out);

enum class Bias : uint8_t { None, Zero, Drawn };  // Drawn: as PyTorch does, uniform in +-1/sqrt(fan_in)
/// y = x W (+ b) as MatMul and Add, W (in, out), in `scope`. x (..., in).
Value dense(Builder& g, std::string_view scope, const Value& x, int64_t in, int64_t out, const Init& init, Bias bias);

/// A square convolution.
struct ConvSize {
  int64_t in;
  int64_t out;
  int64_t kernel;
  int64_t stride = 1;
  int64_t pad = 0;

  int64_t fan_in() const { return in * kernel * kernel; }
};
/// Conv in `scope`, weight (out, in, kernel, kernel). x (batch, in, height, width).
Value conv(Builder& g, std::string_view scope, const Value& x, const ConvSize& conv_size, const Init& init, Bias bias);
/// Conv with He's initialization and a bias, then Relu, in `scope`.
Value conv_relu(Builder& g, std::string_view scope, const Value& x, const ConvSize& conv_size);
/// BatchNormalization in its inference form, in `scope`; every element of its scale is `scale`.
Value batch_norm(Builder& g, std::string_view scope, const Value& x, int64_t channels, double scale);
/// MaxPool with a square window.
Value max_pool(Builder& g, const Value& x, int64_t kernel, int64_t stride, int64_t pad);

/// LayerNormalization over the last dimension, in `scope`.
Value layer_norm(Builder& g, std::string_view scope, const Value& x, int64_t width, double epsilon);
/// RMSNormalization (opset 23) over the last dimension, in `scope`.
Value rms_norm(Builder& g, std::string_view scope, const Value& x, int64_t width, double epsilon);

/// The width of a head, from the size flags "hidden" and "heads". @throws Error(M003) when it is not whole.
int64_t head_width(const Builder& g);
/// (batch, sequence, heads * w) -> (batch, heads, sequence, w).
Value split_heads(Builder& g, const Value& x, int64_t heads, int64_t head_width);
/// softmax(q k^T / sqrt(head_width)) v, heads joined: (batch, sequence, heads * head_width).
/// q, k, v (batch, heads, sequence, head_width); mask bool (sequence, sequence), true where a query may look, or "".
Value attend(Builder& g, const Value& q, const Value& k, const Value& v, int64_t heads, int64_t head_width,
             const Value& mask);

/// What a self-attention with as many key heads as query heads is made of.
struct AttentionSize {
  int64_t hidden;
  int64_t heads;
  Init in;   // of q, k, v
  Init out;  // of the output projection
};
/// Multi-head self-attention with biases, in scope "attn". x (batch, sequence, hidden).
Value self_attention(Builder& g, const Value& x, const AttentionSize& attention_size, const Value& mask);

/// The graph input `ids` (batch, sequence), int64; "sequence" is the size flag, and symbolic where that is 0.
struct Tokens {
  Value ids;
  Dim sequence;
  Value length;  // int64 (1): the number of tokens in a row
};
/// `default_sequence` goes to the metadata as "mpc.default_sequence" when the dimension is symbolic.
Tokens token_input(Builder& g, int64_t default_sequence);
/// The numbers 0 .. sequence-1, int64 (sequence).
Value token_positions(Builder& g, const Tokens& tokens);
/// bool (sequence, sequence): true where the key is not after the query.
Value causal_mask(Builder& g, const Tokens& tokens);
/// The rows 0 .. sequence-1 of a learned position table `scope/name`, (positions, hidden) as the size flags say.
/// @throws Error(M003) when a row of tokens is longer than the table.
Value position_rows(Builder& g, std::string_view name, const Init& init, const Tokens& tokens);

}  // namespace mpc::zoo
