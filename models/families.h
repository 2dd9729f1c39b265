#pragma once

#include "models/builder.h"

namespace mpc::zoo {

// One build function per kind of model; the rows of models/zoo.cpp say which sizes each of them reads.

// acceptance.cpp: the rows S-A to S-S
void build_two_linear(Builder& g);
void build_seqnet(Builder& g);
void build_seqnet_ddp(Builder& g);
void build_tiny_linear(Builder& g);
void build_cnn_classifier_broken(Builder& g);
void build_cnn_classifier(Builder& g);
void build_cnn_classifier_32(Builder& g);
void build_encoder_decoder(Builder& g);
void build_hybrid(Builder& g);
void build_hybrid_trainable(Builder& g);
void build_branches(Builder& g);
void build_many_small(Builder& g);
void build_residual_cut(Builder& g);
void build_tied_embedding(Builder& g);

// vision.cpp
void build_mlp(Builder& g);
void build_inception(Builder& g);
void build_unet(Builder& g);

// resnet.cpp
void build_resnet18(Builder& g);
void build_resnet50(Builder& g);

// transformers.cpp
void build_bert(Builder& g);
void build_gpt2(Builder& g);
void build_vit(Builder& g);

// llama.cpp
void build_llama(Builder& g);
void build_moe(Builder& g);

}  // namespace mpc::zoo
