#include <cstdio>
#include <vector>

#include <mpc/mpc.h>

// What an embedder writes: split a model over two devices, run it, train it. Every header that mpc installs is in
// mpc.h.

namespace {

/// The outputs on `devices`, for the same input.
std::vector<float> run(const mpc::Model& model, const char* devices) {
  const mpc::CompileResult result = mpc::compile(model, mpc::Cluster::devices(devices));
  mpc::Session session(result.value(), model);
  session.bind("x", mpc::random_tensor(mpc::DType::f32, {64, 1000}, 1, "x"));
  session.step();
  return session.output("y").as<float>();
}

/// The losses of two steps on the same batch.
std::vector<double> train(const mpc::Model& model) {
  mpc::CompileOptions options;
  options.microbatches = 2;
  options.training.emplace();
  options.training->loss = "mse";
  options.training->optimizer = "sgd,lr=0.1";
  mpc::Session session(mpc::compile(model, mpc::Cluster::devices("cpu:2"), options).value(), model);
  session.bind("x", mpc::random_tensor(mpc::DType::f32, {64, 1000}, 1, "x"));
  session.bind("labels", mpc::random_tensor(mpc::DType::f32, {64, 100}, 1, "labels"));
  std::vector<double> losses;
  for (int step = 0; step < 2; ++step) losses.push_back(session.step().loss);
  return losses;
}

bool check(bool holds, const char* what) {
  if (!holds) std::fprintf(stderr, "failed: %s\n", what);
  return holds;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    const mpc::Model model = mpc::Model::load(argv[1]);
    bool is_good = check(run(model, "cpu:1") == run(model, "cpu:2"), "two devices give the bits of one");
    const std::vector<double> losses = train(model);
    is_good = check(losses[1] < losses[0], "a step lowers the loss") && is_good;
    const mpc::CompileResult none = mpc::compile(model, mpc::Cluster::devices("cpu:1").with_memory("1MiB"));
    is_good = check(!none && none.reasons.needs.size() == 1 && none.reasons.needs[0].bytes > 1 << 20,
                    "what does not fit is a result") &&
              is_good;
    try {
      mpc::Model::load("absent.onnx");
      is_good = check(false, "an absent file is an error");
    } catch (const mpc::Error& error) {
      is_good =
          check(error.id() == mpc::ErrorId::M010 && error.code() == 6, "the error has its id and code") && is_good;
    }
    return is_good ? 0 : 1;
  } catch (const mpc::Error& error) {
    std::fprintf(stderr, "mpc: error[%s] %s\n", std::string(mpc::error_name(error.id())).c_str(), error.what());
    return 1;
  }
}
