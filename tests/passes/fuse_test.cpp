// Fusion changes no bit and keeps nothing longer: random graphs with and without it.

#include "passes/fuse.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "compiler/ir/parse.h"
#include "tests/support/random_graph.h"
#include "tests/support/run_plan.h"
#include "tests/support/sweep.h"

namespace {

using namespace mpc;

constexpr int64_t kBatch = 10;

PlanOptions options_for(uint64_t seed) {
  PlanOptions options;
  options.batch = kBatch;
  options.microbatches = seed % 3 == 0 ? 1 : 4;  // 10 rows, or 3, 3, 3 and 1
  options.train = seed % 4 != 0;
  options.keep_outputs = true;
  options.loss = LossKind::mse;
  options.optimizer.optimizer = parse_optimizer("adam,lr=0.01");
  options.precision = seed % 5 == 0 ? Precision::bf16 : Precision::f32;
  return options;
}

FrontGraphs graphs_of(uint64_t seed, const PlanOptions& options) {
  const auto graph_of = [&](int64_t rows) { return test::random_graph(seed, rows, {.steps = 14, .dropped = {}}); };
  return make_front_graphs(graph_of, kBatch, options, "random graph");
}

test::Outcome execute(const Plan& plan, uint64_t seed, executor::KernelSet kernels) {
  test::RunOptions options;
  options.seed = seed;
  options.session.kernels = kernels;
  return test::run_plan(plan, test::SeededWeights(seed), options);
}

int count_fused(const Graph& graph) {
  return static_cast<int>(
      std::ranges::count_if(graph.nodes(), [](const Node& node) { return node.op == OpKind::Elementwise; }));
}

/// The body of a graph over inputs %x and %z and a parameter %w of 64 x 64, fused.
Graph fused(const std::string& body, const FusionLimits& limits = {}) {
  const Graph graph = parse_graph(
      "graph \"g\" canonical\ninput %x f32[64,64]\ninput %z f32[64,64]\nparameter %w f32[64,64] from \"w\"\n" + body);
  return fuse(graph, fusion_groups({&graph}, limits));
}

std::vector<std::string> steps_of(const Graph& graph) {
  for (const Node& node : graph.nodes()) {
    if (node.op == OpKind::Elementwise) return node.attributes.texts("steps");
  }
  return {};
}

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("fuse: random graphs give the same bits with and without it, on one device and on three") {
  constexpr int kGraphs = test::sweep(60);
  int groups = 0;
  for (uint64_t seed = 1; seed <= kGraphs; ++seed) {
    CAPTURE(seed);
    PlanOptions options = options_for(seed);
    options.may_fuse = false;
    const FrontGraphs plain_graphs = graphs_of(seed, options);
    const Plan plain = test::plan_on_cpus(plain_graphs, 1, options);
    options.may_fuse = true;
    const FrontGraphs fused_graphs = graphs_of(seed, options);
    groups += count_fused(fused_graphs.main);
    const Plan fused = test::plan_on_cpus(fused_graphs, 1, options);
    for (const auto kernels : {executor::KernelSet::best, executor::KernelSet::reference}) {
      const auto difference = test::find_difference(execute(plain, seed, kernels), execute(fused, seed, kernels));
      CHECK_MESSAGE(!difference, difference.value_or(""));
    }
    options.assignment = test::random_assignment(fused_graphs.main, 3, seed);
    const auto difference =
        test::find_difference(execute(plain, seed, executor::KernelSet::best),
                              execute(test::plan_on_cpus(fused_graphs, 3, options), seed, executor::KernelSet::best));
    CHECK_MESSAGE(!difference, difference.value_or(""));
  }
  CHECK(groups > kGraphs);  // or the graphs would show nothing
}

TEST_CASE("fuse: a chain becomes one node that reads its operands once") {
  const Graph graph = fused(R"ir(%a f32[64,64] = Add(%x, %z) @a
%b f32[64,64] = Mul(%a, %x) @b
%y f32[64,64] = Tanh(%b) @y origin "y (Tanh)"
output y = %y
)ir");
  REQUIRE(graph.node_count() == 1);
  const Node& node = graph.node(NodeId(0));
  CHECK(node.name == "y");
  CHECK(node.origin == "y (Tanh)");
  CHECK(node.inputs.size() == 2);
  CHECK(node.attributes.texts("steps") == Texts{"f32 Add 0 1", "f32 Mul 2 0", "f32 Tanh 3"});
  CHECK(node.attributes.texts("origins").size() == 3);
}

TEST_CASE("fuse: what somebody else reads, or the model gives, stays a node of its own") {
  CHECK(count_fused(fused("%a f32[64,64] = Relu(%x)\n%y f32[64,64] = Tanh(%a)\n%m f32[64,64] = MatMul(%a, %w)\noutput "
                          "y = %y\noutput m = %m\n")) == 0);
  CHECK(count_fused(fused("%a f32[64,64] = Relu(%x)\n%y f32[64,64] = Tanh(%a)\noutput y = %y\noutput a = %a\n")) == 0);
}

TEST_CASE("fuse: a result that all readers in a group share is computed once") {
  const Graph graph =
      fused("%a f32[64,64] = Sigmoid(%x)\n%b f32[64,64] = Neg(%a)\n%y f32[64,64] = Mul(%a, %b)\noutput y = %y\n");
  CHECK(steps_of(graph) == Texts{"f32 Sigmoid 0", "f32 Neg 1", "f32 Mul 1 2"});
}

TEST_CASE("fuse: a smaller operand stays outside: it would be computed for every row") {
  const Graph graph = fused(
      "parameter %s f32[64] from \"s\"\n%e f32[64] = Exp(%s)\n%a f32[64,64] = Mul(%x, %e)\n%y f32[64,64] = "
      "Relu(%a)\noutput y = %y\n");
  CHECK(graph.node_count() == 2);
  CHECK(steps_of(graph) == Texts{"f32 Mul 0 1", "f32 Relu 2"});
}

TEST_CASE("fuse: no operand is kept while other nodes run") {
  // One by one, %x and %z die at %a, and %a alone waits for the product; fused, both would wait.
  CHECK(count_fused(fused("%a f32[64,64] = Add(%x, %z)\n%m f32[64,64] = MatMul(%w, %w)\n%y f32[64,64] = Add(%a, "
                          "%m)\noutput y = %y\n")) == 0);
  // One operand in the place of one result is no more.
  CHECK(
      count_fused(fused(
          "%a f32[64,64] = Relu(%x)\n%m f32[64,64] = MatMul(%w, %w)\n%y f32[64,64] = Add(%a, %m)\noutput y = %y\n")) ==
      1);
  // A bf16 result is half of its f32 operand.
  CHECK(count_fused(fused("parameter %n bf16[64,64] from \"n\"\n%a bf16[64,64] = Cast(%x) {to = \"bf16\"}\n%m "
                          "bf16[64,64] = MatMul(%n, %n)\n"
                          "%y bf16[64,64] = Add(%a, %m)\noutput y = %y\n")) == 0);
}

TEST_CASE("fuse: pins and assignments that send nodes apart keep them apart") {
  const std::string body = "%a f32[64,64] = Relu(%x) @front/a\n%y f32[64,64] = Tanh(%a) @back/y\noutput y = %y\n";
  CHECK(count_fused(fused(body)) == 1);
  CHECK(count_fused(fused(body, {{{"front/", 0}, {"back/", 1}}, {}})) == 0);
  CHECK(count_fused(fused(body, {{{"front/", 0}}, {}})) == 0);  // the last node decides where a group runs, and is free
  CHECK(count_fused(fused(body, {{{"back/", 1}}, {}})) == 1);
  CHECK(count_fused(fused(body, {{{"/", 1}}, {}})) == 1);
  CHECK(count_fused(fused(body, {{}, {{"front/a", 0}, {"back/y", 1}}})) == 0);
  CHECK(count_fused(fused(body, {{}, {{"front/a", 1}, {"back/y", 1}}})) == 1);
}

TEST_CASE("fuse: a program has no more steps than it may have") {
  std::string body = "%v0 f32[64,64] = Relu(%x)\n";
  for (int i = 1; i < 40; ++i)
    body += "%v" + std::to_string(i) + " f32[64,64] = Tanh(%v" + std::to_string(i - 1) + ")\n";
  const Graph graph = fused(body + "output y = %v39\n");
  CHECK(graph.node_count() == 3);  // 40 nodes: 16 and 16 from the end, and 8
}

TEST_CASE("fuse: integers stay as they are") {
  CHECK(count_fused(fused("input %i i64[64]\n%a i64[64] = Add(%i, %i)\n%y i64[64] = Mul(%a, %i)\noutput y = %y\n")) ==
        0);
}
