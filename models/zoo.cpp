#include "models/zoo.h"

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "models/builder.h"
#include "models/families.h"

#include <algorithm>
#include <utility>

namespace mpc::zoo {
namespace {

constexpr int64_t kMaxBatch = int64_t{1} << 31;

struct Family {
  Entry entry;
  int64_t default_batch;
  void (*build)(Builder&);
  int64_t opset = 21;
  bool fixed_batch = false;  // the batch is a number even when it was not chosen
};

SizeFlag sequence_flag(int64_t default_value) {
  return {"sequence", default_value, "tokens in a row; 0 makes the dimension symbolic", 0};
}

SizeFlag limited(std::string name, int64_t default_value, std::string help, int64_t max_value) {
  return {std::move(name), default_value, std::move(help), 1, max_value};
}

constexpr int64_t kMaxLayers = 1000;
constexpr int64_t kMaxWidth = 1 << 12;
constexpr int64_t kMaxImage = 1 << 13;

std::vector<SizeFlag> image_sizes(int64_t image, int64_t classes, int64_t width) {
  return {limited("image", image, "height and width of the images", kMaxImage),
          {"classes", classes, "classes"},
          limited("width", width, "channels of the first layer", kMaxWidth)};
}

std::vector<SizeFlag> with(std::vector<SizeFlag> sizes, std::vector<SizeFlag> more) {
  sizes.insert(sizes.end(), more.begin(), more.end());
  return sizes;
}

std::vector<SizeFlag> layer_sizes(int64_t layers, int64_t hidden, int64_t heads) {
  return {limited("layers", layers, "blocks", kMaxLayers),
          {"hidden", hidden, "width of the residual stream"},
          {"heads", heads, "attention heads"}};
}

std::vector<SizeFlag> token_sizes(int64_t layers, int64_t hidden, int64_t heads, int64_t vocabulary) {
  return with(layer_sizes(layers, hidden, heads),
              {{"vocab", vocabulary, "tokens in the vocabulary"}, sequence_flag(128)});
}

Family gpt2(std::string name, std::string summary, int64_t layers, int64_t hidden, int64_t heads) {
  std::vector<SizeFlag> sizes =
      with(token_sizes(layers, hidden, heads, 50257), {{"positions", 1024, "rows of the position table"}});
  return {{std::move(name), std::move(summary), std::move(sizes)}, 8, build_gpt2};
}

std::vector<Family> acceptance_families() {
  const SizeFlag sequence = sequence_flag(20);
  return {
      {{"two-linear", "Linear 1000-500-100, one part each", {}}, 64, build_two_linear},
      {{"seqnet", "784-200-LogSoftmax-10 on 28x28 images", {}}, 100, build_seqnet},
      {{"seqnet-ddp", "784-200-Sigmoid-200-LogSoftmax-10 on 28x28 images", {}}, 100, build_seqnet_ddp},
      {{"tiny-linear", "Linear 10-1", {}}, 32, build_tiny_linear},
      {{"cnn-classifier-broken", "a CNN whose classifier expects 4096 of 16384 features: refused", {}},
       64,
       build_cnn_classifier_broken,
       21,
       true},
      {{"cnn-classifier", "a CNN on 64x64 images: features, classifier", {}}, 64, build_cnn_classifier},
      {{"cnn-classifier-32", "a CNN on 32x32 images: features, classifier", {}}, 64, build_cnn_classifier_32},
      {{"encoder-decoder", "Embedding, LSTM | LSTM, Linear | mean, Linear", {sequence}}, 32, build_encoder_decoder},
      {{"hybrid", "a preprocessing part without weights, then Linear 10-10", {}}, 32, build_hybrid},
      {{"hybrid-trainable", "Linear 10-10, ReLU | Linear 10-10", {}}, 32, build_hybrid_trainable},
      {{"branches", "two independent branches of three Linear 256, joined", {}}, 64, build_branches},
      {{"many-small", "eight small values between two parts, one of them used five times", {}}, 16, build_many_small},
      {{"residual-cut", "residual sums over part borders; one value skips two parts", {}}, 32, build_residual_cut},
      {{"tied-embedding",
        "one table as embedding and as output layer",
        {{"vocab", 100, "tokens in the vocabulary"}, {"hidden", 32, "width"}, {"sequence", 20, "tokens in a row"}}},
       32,
       build_tied_embedding},
  };
}

std::vector<Family> model_families() {
  constexpr int64_t kOpsetWithRmsNormalization = 23;
  return {
      {{"mlp", "784-512-512-10 with ReLU", {{"hidden", 512, "width of the hidden layers"}}}, 64, build_mlp},
      {{"resnet18", "ResNet-18, 11.7 M parameters", image_sizes(224, 1000, 64)}, 32, build_resnet18},
      {{"resnet50", "ResNet-50, 25.6 M parameters", image_sizes(224, 1000, 64)}, 32, build_resnet50},
      {{"inception", "inception blocks: four branches and a Concat each",
        with(image_sizes(64, 10, 32), {limited("blocks", 4, "blocks", kMaxLayers)})},
       32,
       build_inception},
      {{"unet", "a U-Net with skips over the whole depth",
        with(image_sizes(64, 2, 16), {limited("levels", 3, "halvings of the image", 8)})},
       8,
       build_unet},
      {{"vit-b", "ViT-B/16, 86.6 M parameters",
        with(layer_sizes(12, 768, 12), {limited("image", 224, "height and width of the images", kMaxImage),
                                        {"patch", 16, "height and width of a patch"},
                                        {"classes", 1000, "classes"}})},
       32,
       build_vit},
      {{"bert-base", "BERT-base encoder, 108.9 M parameters",
        with(token_sizes(12, 768, 12, 30522), {{"positions", 512, "rows of the position table"}})},
       8,
       build_bert},
      gpt2("gpt2", "GPT-2, 124 M parameters", 12, 768, 12),
      gpt2("gpt2-medium", "GPT-2 medium, 355 M parameters", 24, 1024, 16),
      gpt2("gpt2-large", "GPT-2 large, 774 M parameters", 36, 1280, 20),
      gpt2("gpt2-xl", "GPT-2 XL, 1.56 G parameters", 48, 1600, 25),
      {{"llama", "Llama-style decoder: RMSNorm, rotary positions, grouped queries, SwiGLU",
        with(token_sizes(4, 256, 8, 4096),
             {{"kv_heads", 2, "key and value heads"}, {"ffn", 688, "inner width of the feed-forward part"}})},
       8,
       build_llama,
       kOpsetWithRmsNormalization},
      {{"moe", "decoder with a dense mixture of experts, each a part of its own",
        with(token_sizes(2, 128, 4, 1000), {{"positions", 1024, "rows of the position table"},
                                            limited("experts", 4, "experts", 256),
                                            {"ffn", 256, "inner width of an expert"}})},
       8,
       build_moe},
  };
}

const std::vector<Family>& families() {
  static const std::vector<Family> kFamilies = [] {
    std::vector<Family> all = acceptance_families();
    for (Family& family : model_families()) all.push_back(std::move(family));
    return all;
  }();
  return kFamilies;
}

template <class Items, class NameOf>
std::string hint_for(std::string_view name, const Items& items, NameOf name_of) {
  std::vector<std::string> names;
  names.reserve(items.size());
  for (const auto& item : items) names.push_back(name_of(item));
  if (const auto near = nearest(name, names)) return "did you mean '" + *near + "'?";
  if (names.empty()) return "it has none";
  std::string hint = "there are: ";
  for (size_t i = 0; i < names.size(); ++i) hint += (i == 0 ? "" : ", ") + names[i];
  return hint;
}

const Family& family_of(std::string_view name) {
  const auto& all = families();
  const auto it = std::find_if(all.begin(), all.end(), [&](const Family& f) { return f.entry.name == name; });
  if (it != all.end()) return *it;
  throw Error(ErrorId::M002, std::string(name), "there is no sample model of this name",
              hint_for(name, all, [](const Family& f) { return f.entry.name; }));
}

std::map<std::string, int64_t> checked_sizes(const Entry& entry, const std::map<std::string, int64_t>& chosen) {
  std::map<std::string, int64_t> sizes;
  for (const SizeFlag& flag : entry.sizes) sizes[flag.name] = flag.default_value;
  for (const auto& [name, value] : chosen) {
    const auto flag = std::find_if(entry.sizes.begin(), entry.sizes.end(),
                                   [&name = name](const SizeFlag& f) { return f.name == name; });
    if (flag == entry.sizes.end()) {
      throw Error(ErrorId::M002, entry.name, "the model has no size '" + name + "'",
                  hint_for(name, entry.sizes, [](const SizeFlag& f) { return f.name; }));
    }
    if (value < flag->min_value || value > flag->max_value) {
      throw Error(ErrorId::M003, entry.name, "size '" + name + "' is " + std::to_string(value),
                  "use " + std::to_string(flag->min_value) + " to " + std::to_string(flag->max_value));
    }
    sizes[name] = value;
  }
  return sizes;
}

Dim batch_of(const Family& family, const Options& options) {
  if (!options.batch) return family.fixed_batch ? Dim(family.default_batch) : Dim("batch");
  if (*options.batch < 1 || *options.batch >= kMaxBatch) {
    throw Error(ErrorId::M003, family.entry.name, "the batch is " + std::to_string(*options.batch),
                "use 1 to " + std::to_string(kMaxBatch - 1));
  }
  return *options.batch;
}

}  // namespace

const std::vector<Entry>& entries() {
  static const std::vector<Entry> kEntries = [] {
    std::vector<Entry> all;
    for (const Family& family : families()) all.push_back(family.entry);
    return all;
  }();
  return kEntries;
}

void write(std::string_view name, const Options& options, const std::string& path) {
  const Family& family = family_of(name);
  Builder builder({.model_name = family.entry.name,
                   .opset = family.opset,
                   .batch = batch_of(family, options),
                   .seed = options.seed,
                   .weights = options.weights,
                   .sizes = checked_sizes(family.entry, options.sizes)});
  if (std::holds_alternative<std::string>(builder.batch())) {
    builder.metadata("mpc.default_batch", std::to_string(family.default_batch));
  }
  family.build(builder);
  builder.save(path, options.inline_weight_bytes);
}

}  // namespace mpc::zoo
