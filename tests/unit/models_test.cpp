#include "compiler/base/error.h"
#include "models/zoo.h"

#include <doctest/doctest.h>
#include <onnx/checker.h>
#include <onnx/onnx_pb.h>
#include <onnx/shape_inference/implementation.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
namespace onnx = ONNX_NAMESPACE;
using mpc::zoo::Options;
using Sizes = std::map<std::string, int64_t>;

/// A folder of its own for one test, removed at its end.
class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "mpc-zoo-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  size_t entries() const { return static_cast<size_t>(std::distance(fs::directory_iterator(path_), {})); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in);
  return {std::istreambuf_iterator<char>(in), {}};
}

onnx::ModelProto parsed(const std::string& path) {
  onnx::ModelProto model;
  REQUIRE(model.ParseFromString(bytes_of(path)));
  return model;
}

onnx::ModelProto written(const std::string& name, const Options& options) {
  const Folder folder;
  mpc::zoo::write(name, options, folder.file("model.onnx"));
  return parsed(folder.file("model.onnx"));
}

/// Sizes at which the model is small enough to be written with weights in a moment.
Sizes small_sizes(const std::string& name) {
  if (name.starts_with("gpt2") || name == "bert-base") {
    return {{"layers", 2}, {"hidden", 16}, {"heads", 2}, {"vocab", 11}, {"positions", 8}, {"sequence", 6}};
  }
  if (name == "llama") {
    return {{"layers", 2}, {"hidden", 16}, {"heads", 4}, {"kv_heads", 2}, {"vocab", 11}, {"sequence", 6}, {"ffn", 24}};
  }
  if (name == "moe") return {{"layers", 2}, {"hidden", 16}, {"vocab", 11}, {"sequence", 6}, {"experts", 3}, {"ffn", 8}};
  if (name == "vit-b") return {{"layers", 2}, {"hidden", 16}, {"heads", 2}, {"image", 8}, {"patch", 4}, {"classes", 5}};
  if (name.starts_with("resnet")) return {{"image", 32}, {"width", 4}, {"classes", 5}};
  if (name == "inception") return {{"image", 32}, {"width", 4}, {"blocks", 2}};
  if (name == "unet") return {{"image", 16}, {"width", 4}};
  if (name == "mlp") return {{"hidden", 16}};
  return {};
}

bool is_trained(const std::string& name) {
  return name.find("running_mean") == std::string::npos && name.find("running_var") == std::string::npos;
}

int64_t product(const auto& dims) {
  int64_t result = 1;
  for (const int64_t dim : dims) result *= dim;
  return result;
}

std::vector<int64_t> int_values(const onnx::TensorProto& tensor) {
  std::vector<int64_t> values(tensor.raw_data().size() / sizeof(int64_t));
  std::copy_n(tensor.raw_data().data(), tensor.raw_data().size(), reinterpret_cast<char*>(values.data()));
  return values;
}

/// Elements of all trained weights: float initializers, and ConstantOfShape nodes where weights were left out.
int64_t parameter_count(const onnx::ModelProto& model) {
  int64_t count = 0;
  std::map<std::string, std::vector<int64_t>> constants;
  for (const auto& tensor : model.graph().initializer()) {
    if (tensor.data_type() == onnx::TensorProto::FLOAT && is_trained(tensor.name())) count += product(tensor.dims());
  }
  for (const auto& node : model.graph().node()) {
    if (node.op_type() == "Constant" && node.attribute(0).t().data_type() == onnx::TensorProto::INT64) {
      constants[node.output(0)] = int_values(node.attribute(0).t());
    }
    if (node.op_type() == "ConstantOfShape" && is_trained(node.output(0))) {
      count += product(constants.at(node.input(0)));
    }
  }
  return count;
}

/// Replaces the symbolic dimensions of `shape` by numbers.
void bind(onnx::TensorShapeProto& shape, const Sizes& dims) {
  for (auto& dim : *shape.mutable_dim()) {
    if (dim.has_dim_param()) dim.set_dim_value(dims.at(dim.dim_param()));
  }
}

std::vector<int64_t> numbers(const onnx::TensorShapeProto& shape) {
  std::vector<int64_t> result;
  for (const auto& dim : shape.dim()) result.push_back(dim.has_dim_value() ? dim.dim_value() : -1);
  return result;
}

/// The shape of y as the model declares it, and as inference finds it from the inputs alone.
struct OutputShapes {
  std::vector<int64_t> declared;
  std::vector<int64_t> inferred;
};

OutputShapes output_shapes(onnx::ModelProto model, const Sizes& dims) {
  for (auto& input : *model.mutable_graph()->mutable_input()) {
    bind(*input.mutable_type()->mutable_tensor_type()->mutable_shape(), dims);
  }
  auto& output = *model.mutable_graph()->mutable_output(0)->mutable_type()->mutable_tensor_type();
  bind(*output.mutable_shape(), dims);
  OutputShapes shapes{numbers(output.shape()), {}};
  output.clear_shape();
  const onnx::ShapeInferenceOptions strict{true, 1, true};
  onnx::shape_inference::InferShapes(model, onnx::OpSchemaRegistry::Instance(), strict);
  shapes.inferred = numbers(output.shape());
  return shapes;
}

std::string metadata(const onnx::ModelProto& model, const std::string& key) {
  for (const auto& entry : model.metadata_props()) {
    if (entry.key() == key) return entry.value();
  }
  return "";
}

/// The part a node belongs to: its name up to the first slash.
std::string part_of(const std::string& name) {
  return name.substr(0, name.find('/'));
}

/// Parts in the order in which they first appear.
std::vector<std::string> parts(const onnx::ModelProto& model) {
  std::vector<std::string> result;
  for (const auto& node : model.graph().node()) {
    const std::string part = part_of(node.name());
    if (std::find(result.begin(), result.end(), part) == result.end()) result.push_back(part);
  }
  return result;
}

/// Values made in part `from` and used in part `to`, with the number of uses there.
std::map<std::string, int> crossing(const onnx::ModelProto& model, const std::string& from, const std::string& to) {
  std::set<std::string> made;
  std::map<std::string, int> uses;
  for (const auto& node : model.graph().node()) {
    const std::string part = part_of(node.name());
    if (part == from) made.insert(node.output().begin(), node.output().end());
    if (part != to) continue;
    for (const auto& input : node.input()) {
      if (made.contains(input)) ++uses[input];
    }
  }
  return uses;
}

mpc::Error error_of(const auto& call) {
  try {
    call();
  } catch (const mpc::Error& error) {
    return error;
  }
  FAIL("nothing was refused");
  return {mpc::ErrorId::M700, "", ""};
}

}  // namespace

TEST_CASE("zoo: every model passes the checker and strict inference, with and without weights, at two batches") {
  for (const auto& entry : mpc::zoo::entries()) {
    if (entry.name == "cnn-classifier-broken") continue;  // has its own test
    for (const bool weights : {true, false}) {
      CAPTURE(entry.name);
      CAPTURE(weights);
      const auto model = written(entry.name, {.weights = weights, .sizes = small_sizes(entry.name)});
      CHECK_NOTHROW(onnx::checker::check_model(model, true));
      CHECK(metadata(model, "mpc.default_batch") != "");
      for (const int64_t batch : {3, 7}) {
        const OutputShapes shapes = output_shapes(model, {{"batch", batch}});
        CHECK(shapes.declared.front() == batch);
        CHECK(shapes.inferred == shapes.declared);
      }
    }
  }
}

TEST_CASE("zoo: names are unique, start with a part, and follow one convention") {
  for (const auto& entry : mpc::zoo::entries()) {
    CAPTURE(entry.name);
    const auto model = written(entry.name, {.sizes = small_sizes(entry.name)});
    CHECK(model.ir_version() == (entry.name == "llama" ? 11 : 10));
    CHECK(model.opset_import(0).version() == (entry.name == "llama" ? 23 : 21));
    std::set<std::string> names;
    std::set<std::string> used;
    for (const auto& node : model.graph().node()) {
      CHECK(names.insert(node.name()).second);
      CHECK(node.name().find('/') != std::string::npos);
      used.insert(node.input().begin(), node.input().end());
    }
    for (const auto& tensor : model.graph().initializer()) {
      CHECK_MESSAGE(used.contains(tensor.name()), tensor.name() << " is not used");
    }
    REQUIRE(model.graph().input_size() == 1);
    const std::string& input = model.graph().input(0).name();
    const bool tokens = model.graph().input(0).type().tensor_type().elem_type() == onnx::TensorProto::INT64;
    CHECK(input == (tokens ? "ids" : "x"));
    REQUIRE(model.graph().output_size() == 1);
    CHECK(model.graph().output(0).name() == "y");
  }
}

TEST_CASE("zoo: parameter counts are those of the published models") {
  constexpr int64_t kBertLayer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768;
  constexpr int64_t kBertTables = (30522 + 512 + 2) * 768 + 2 * 768;
  const std::map<std::string, int64_t> expected = {
      {"two-linear", 500'500 + 50'100},
      {"seqnet", 159'010},
      {"seqnet-ddp", 157'000 + 40'200 + 2'010},
      {"tiny-linear", 11},
      {"cnn-classifier-broken", 448 + 40'970},
      {"cnn-classifier", 448 + 163'850},
      {"cnn-classifier-32", 448 + 40'970},
      {"encoder-decoder", 63'978},
      {"hybrid", 110},
      {"hybrid-trainable", 220},
      {"branches", 6 * (256 * 256 + 256) + 5'130},
      {"many-small", 64 * 65 + 7 * 8 * 65 + 10 * 97},
      {"residual-cut", 4 * 64 * 65 + 10 * 65},
      {"tied-embedding", 100 * 32 + 32 * 33},
      {"mlp", 785 * 512 + 513 * 512 + 513 * 10},
      {"resnet18", 11'689'512},
      {"resnet50", 25'557'032},
      {"vit-b", 86'567'656},
      {"bert-base", kBertTables + 12 * kBertLayer},
      {"gpt2", 124'439'808},
      {"gpt2-medium", 354'823'168},
      {"gpt2-large", 774'030'080},
      {"gpt2-xl", 1'557'611'200},
      // embedding and head, final norm; per layer q, out, k, v with two of eight heads, three of 688, two norms
      {"llama", 2 * 4096 * 256 + 256 + 4 * (2 * 256 * 256 + 2 * 256 * 64 + 3 * 256 * 688 + 2 * 256)},
      // tables, head, final norm; per layer attention, router, four experts, two norms
      {"moe", 128 * (1000 + 1024 + 1000 + 2) + 2 * (4 * 128 * 129 + 128 * 4 + 4 * 3 * 128 * 256 + 4 * 128)},
  };
  for (const auto& [name, count] : expected) {
    CAPTURE(name);
    CHECK(parameter_count(written(name, {.weights = false})) == count);
  }
  for (const auto& entry : mpc::zoo::entries()) {
    CAPTURE(entry.name);
    const Sizes sizes = small_sizes(entry.name);
    CHECK(parameter_count(written(entry.name, {.sizes = sizes})) ==
          parameter_count(written(entry.name, {.weights = false, .sizes = sizes})));
    if (entry.name != "inception" && entry.name != "unet") CHECK(expected.contains(entry.name));
  }
}

TEST_CASE("zoo: a model without weights is small however large it is") {
  const Folder folder;
  mpc::zoo::write("gpt2-xl", {.weights = false}, folder.file("xl.onnx"));
  CHECK(fs::file_size(folder.file("xl.onnx")) < 2'000'000);
  CHECK(folder.entries() == 1);
  const auto model = parsed(folder.file("xl.onnx"));
  CHECK_NOTHROW(onnx::checker::check_model(model));
  const OutputShapes shapes = output_shapes(model, {{"batch", 2}});
  CHECK(shapes.inferred == std::vector<int64_t>{2, 128, 50257});
}

TEST_CASE("zoo: the parts of the acceptance models are those of the rows") {
  const std::map<std::string, std::vector<std::string>> expected = {
      {"two-linear", {"layer1", "layer2"}},
      {"seqnet", {"lin1", "lin2"}},
      {"cnn-classifier", {"features", "classifier"}},
      {"cnn-classifier-32", {"features", "classifier"}},
      {"encoder-decoder", {"encoder", "decoder", "classifier"}},
      {"hybrid", {"preprocess", "model"}},
      {"hybrid-trainable", {"preprocess", "model"}},
      {"branches", {"branch_a", "branch_b", "join"}},
      {"many-small", {"front", "back"}},
      {"residual-cut", {"stage0", "stage1", "stage2", "stage3"}},
      {"tied-embedding", {"embed", "body", "head"}},
      {"moe", {"embed", "blocks.0", "expert_0", "expert_1", "expert_2", "expert_3", "blocks.1", "head"}},
  };
  for (const auto& [name, names] : expected) {
    CAPTURE(name);
    CHECK(parts(written(name, {})) == names);
  }
}

TEST_CASE("zoo: what crosses the parts of the acceptance models is what the rows say") {
  const auto small = crossing(written("many-small", {}), "front", "back");
  CHECK(small.size() == 8);
  CHECK(small.at("front/small_0/Gemm_out") == 5);

  const auto residual = written("residual-cut", {});
  CHECK(crossing(residual, "stage1", "stage2").size() == 1);
  for (const char* stage : {"stage1", "stage2", "stage3"}) {
    CHECK(crossing(residual, "stage0", stage) == std::map<std::string, int>{{"stage0/Relu_out", 1}});
  }

  const auto chain = written("encoder-decoder", {});
  CHECK(crossing(chain, "encoder", "decoder").size() == 1);
  CHECK(crossing(chain, "decoder", "classifier").size() == 1);
  CHECK(crossing(chain, "encoder", "classifier").empty());

  CHECK(crossing(written("cnn-classifier", {}), "features", "classifier") ==
        std::map<std::string, int>{{"features/MaxPool_out", 1}});

  int uses_of_table = 0;
  const auto tied = written("tied-embedding", {});
  for (const auto& node : tied.graph().node()) {
    for (const auto& input : node.input()) uses_of_table += input == "embed/weight" ? 1 : 0;
  }
  CHECK(uses_of_table == 2);
}

TEST_CASE("zoo: the broken classifier has 16384 features for a weight of 4096, at a batch that is a number") {
  auto model = written("cnn-classifier-broken", {});
  CHECK(model.graph().input(0).type().tensor_type().shape().dim(0).dim_value() == 64);
  for (const auto& tensor : model.graph().initializer()) {
    if (tensor.name() == "classifier/fc/weight") CHECK(tensor.dims(1) == 4096);
  }
  onnx::shape_inference::InferShapes(model);
  int64_t features = 0;
  for (const auto& value : model.graph().value_info()) {
    if (value.name() == "classifier/Flatten_out") features = value.type().tensor_type().shape().dim(1).dim_value();
  }
  CHECK(features == 16384);
}

TEST_CASE("zoo: a batch that is chosen is a number, else a symbol with its default in the metadata") {
  const auto symbolic = written("two-linear", {});
  CHECK(symbolic.graph().input(0).type().tensor_type().shape().dim(0).dim_param() == "batch");
  CHECK(metadata(symbolic, "mpc.default_batch") == "64");
  const auto fixed = written("two-linear", {.batch = 5});
  CHECK(fixed.graph().input(0).type().tensor_type().shape().dim(0).dim_value() == 5);
  CHECK(fixed.graph().output(0).type().tensor_type().shape().dim(0).dim_value() == 5);
  CHECK(metadata(fixed, "mpc.default_batch") == "");
}

TEST_CASE("zoo: a sequence of 0 is a symbol, and no weight depends on it") {
  for (const char* name : {"gpt2", "llama", "bert-base", "moe", "encoder-decoder"}) {
    CAPTURE(name);
    Sizes sizes = small_sizes(name);
    const auto fixed = written(name, {.sizes = sizes});
    sizes["sequence"] = 0;
    const auto symbolic = written(name, {.sizes = sizes});
    CHECK(symbolic.graph().input(0).type().tensor_type().shape().dim(1).dim_param() == "sequence");
    CHECK(metadata(symbolic, "mpc.default_sequence") != "");
    CHECK_NOTHROW(onnx::checker::check_model(symbolic, true));
    std::map<std::string, std::string> weights;
    for (const auto& tensor : fixed.graph().initializer()) weights[tensor.name()] = tensor.raw_data();
    for (const auto& tensor : symbolic.graph().initializer()) CHECK(weights[tensor.name()] == tensor.raw_data());
  }
}

TEST_CASE("zoo: the same seed gives the same bytes, another seed other weights") {
  for (const auto& entry : mpc::zoo::entries()) {
    CAPTURE(entry.name);
    const Folder folder;
    const Sizes sizes = small_sizes(entry.name);
    mpc::zoo::write(entry.name, {.seed = 7, .sizes = sizes}, folder.file("a.onnx"));
    mpc::zoo::write(entry.name, {.seed = 7, .sizes = sizes}, folder.file("b.onnx"));
    mpc::zoo::write(entry.name, {.seed = 8, .sizes = sizes}, folder.file("c.onnx"));
    const std::string first = bytes_of(folder.file("a.onnx"));
    CHECK((first == bytes_of(folder.file("b.onnx"))));
    CHECK((first != bytes_of(folder.file("c.onnx"))));
    CHECK(folder.entries() == 3);
  }
}

TEST_CASE("zoo: large weights go to a file beside the model, page by page, with the same bits") {
  const Folder folder;
  mpc::zoo::write("two-linear", {.inline_weight_bytes = 1000}, folder.file("out.onnx"));
  const auto outside = parsed(folder.file("out.onnx"));
  const auto inside = written("two-linear", {});
  const std::string data = bytes_of(folder.file("out.onnx.data"));
  CHECK(folder.entries() == 2);
  REQUIRE(outside.graph().initializer_size() == inside.graph().initializer_size());
  for (int i = 0; i < inside.graph().initializer_size(); ++i) {
    const auto& tensor = outside.graph().initializer(i);
    REQUIRE(tensor.data_location() == onnx::TensorProto::EXTERNAL);
    std::map<std::string, std::string> where;
    for (const auto& entry : tensor.external_data()) where[entry.key()] = entry.value();
    CHECK(where.at("location") == "out.onnx.data");
    const size_t offset = std::stoull(where.at("offset"));
    CHECK(offset % 4096 == 0);
    CHECK((data.substr(offset, std::stoull(where.at("length"))) == inside.graph().initializer(i).raw_data()));
  }
  CHECK_NOTHROW(onnx::checker::check_model(folder.file("out.onnx"), true));
}

TEST_CASE("zoo: wrong names and sizes are refused, with what would be right, and leave no file") {
  const Folder folder;
  const std::string path = folder.file("m.onnx");
  const auto refused = [&](const std::string& name, const Options& options) {
    return error_of([&] { mpc::zoo::write(name, options, path); });
  };
  CHECK(refused("resnet5", {}).id() == mpc::ErrorId::M002);
  CHECK(refused("seqnet-dpd", {}).hint() == "did you mean 'seqnet-ddp'?");
  CHECK(refused("gpt2", {.sizes = {{"layer", 1}}}).hint() == "did you mean 'layers'?");
  CHECK(refused("two-linear", {.sizes = {{"layers", 1}}}).id() == mpc::ErrorId::M002);
  CHECK(refused("gpt2", {.sizes = {{"layers", 0}}}).id() == mpc::ErrorId::M003);
  CHECK(refused("gpt2", {.sizes = {{"layers", 1001}}}).id() == mpc::ErrorId::M003);
  CHECK(refused("gpt2", {.batch = 0}).id() == mpc::ErrorId::M003);
  CHECK(refused("gpt2", {.batch = int64_t{1} << 31}).id() == mpc::ErrorId::M003);
  CHECK(refused("gpt2", {.sizes = {{"heads", 5}}}).id() == mpc::ErrorId::M003);
  CHECK(refused("bert-base", {.sizes = {{"sequence", 513}}}).id() == mpc::ErrorId::M003);
  CHECK(refused("llama", {.sizes = {{"kv_heads", 3}}}).id() == mpc::ErrorId::M003);
  CHECK(refused("llama", {.sizes = {{"hidden", 24}, {"heads", 8}, {"kv_heads", 8}}}).id() == mpc::ErrorId::M003);
  CHECK(refused("unet", {.sizes = {{"image", 20}}}).id() == mpc::ErrorId::M003);
  CHECK(refused("vit-b", {.sizes = {{"image", 8}}}).id() == mpc::ErrorId::M003);
  const Sizes huge = {{"layers", 1000}, {"hidden", 1 << 20}, {"heads", 1}};
  CHECK(refused("gpt2", {.weights = false, .sizes = huge}).id() == mpc::ErrorId::M003);
  CHECK(folder.entries() == 0);
}

TEST_CASE("zoo: a path that cannot be written is refused and nothing is changed") {
  const Folder folder;
  const auto id_for = [&](const std::string& path) {
    return error_of([&] { mpc::zoo::write("tiny-linear", {}, path); }).id();
  };
  CHECK(id_for(folder.file("absent/m.onnx")) == mpc::ErrorId::M011);
  CHECK(id_for(folder.path().string()) == mpc::ErrorId::M012);
  CHECK(id_for(folder.path().string() + "/") == mpc::ErrorId::M012);
  CHECK(id_for("") == mpc::ErrorId::M012);
  CHECK(id_for("/dev/full") == mpc::ErrorId::M012);
  CHECK(folder.entries() == 0);
  fs::create_symlink("target.onnx", folder.file("link.onnx"));
  CHECK(id_for(folder.file("link.onnx")) == mpc::ErrorId::M012);
  CHECK(folder.entries() == 1);

  // the model is renamed last: when its data file is refused, an older model stays as it was
  mpc::zoo::write("tiny-linear", {}, folder.file("m.onnx"));
  const std::string before = bytes_of(folder.file("m.onnx"));
  fs::create_directory(folder.file("m.onnx.data"));
  const auto error =
      error_of([&] { mpc::zoo::write("two-linear", {.inline_weight_bytes = 0}, folder.file("m.onnx")); });
  CHECK(error.code() == 6);
  CHECK((bytes_of(folder.file("m.onnx")) == before));
  CHECK(folder.entries() == 3);
}
