// Plans that someone changed on purpose: well formed, and sound as far as the plan's own checker can tell, but their
// operators do not fit. Loading them must refuse them, or they must run: never a kernel with operands it was not
// written for, never an internal error. Run with the sanitizers too.

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "api/check_types.h"
#include "api/impl.h"
#include "compiler/base/error.h"
#include "compiler/plan/check.h"
#include "compiler/plan/text.h"
#include "models/zoo.h"
#include "mpc/compile.h"
#include "mpc/session.h"
#include "tests/support/dice.h"
#include "tests/unit/helpers.h"

namespace mpc::test {
namespace {

/// A sample model and a plan for it.
struct Case {
  Case(const std::string& name_in, uint32_t seeds_in, const std::map<std::string, int64_t>& sizes,
       const v1::CompileOptions& options)
      : name(name_in), seeds(seeds_in), model(written(name, sizes)) {
    const v1::Plan made = v1::compile(model, v1::Cluster::devices("cpu:2"), options).value();
    plan = parse_plan(made.json(), name);
  }
  v1::Model written(const std::string& zoo_name, const std::map<std::string, int64_t>& sizes) const {
    zoo::Options options;
    options.sizes = sizes;
    zoo::write(zoo_name, options, folder / "model.onnx");
    return v1::Model::load(folder / "model.onnx");
  }

  std::string name;
  uint32_t seeds;  // changes of each kind; fewer for a model that takes long
  TemporaryFolder folder;
  v1::Model model;
  Plan plan;
};

v1::CompileOptions options_for(int64_t batch, int microbatches, std::optional<v1::TrainingOptions> training) {
  v1::CompileOptions options;
  options.bindings.batch = batch;
  options.microbatches = microbatches;
  options.training = std::move(training);
  options.verify_passes = false;
  return options;
}

const std::deque<Case>& cases() {
  const v1::TrainingOptions adam = {.optimizer = "adam,lr=0.001", .clip_norm = 1};
  const v1::TrainingOptions momentum = {.loss = "mse", .optimizer = "momentum,lr=0.01"};
  const v1::TrainingOptions sgd = {.optimizer = "sgd,lr=0.01"};
  using Sizes = std::map<std::string, int64_t>;
  static const std::deque<Case> all = [&] {
    std::deque<Case> made;
    made.emplace_back("mlp", 60, Sizes{{"hidden", 16}}, options_for(5, 2, std::nullopt));
    made.emplace_back("tiny-linear", 60, Sizes{}, options_for(7, 3, momentum));
    made.emplace_back("resnet18", 10, Sizes{{"image", 16}, {"width", 4}, {"classes", 5}}, options_for(2, 1, adam));
    made.emplace_back("unet", 40, Sizes{{"image", 16}, {"width", 2}, {"levels", 2}}, options_for(2, 1, std::nullopt));
    made.emplace_back("encoder-decoder", 30, Sizes{{"sequence", 3}}, options_for(3, 2, adam));
    made.emplace_back(
        "gpt2", 30, Sizes{{"layers", 1}, {"hidden", 8}, {"heads", 2}, {"vocab", 11}, {"sequence", 5}, {"positions", 8}},
        options_for(2, 2, sgd));
    made.emplace_back(
        "llama", 40,
        Sizes{{"layers", 1}, {"hidden", 16}, {"heads", 4}, {"kv_heads", 2}, {"vocab", 13}, {"sequence", 4}, {"ffn", 8}},
        options_for(2, 1, std::nullopt));
    return made;
  }();
  return all;
}

class PlanDice : public Dice {
 public:
  using Dice::Dice;
  int64_t integer() {
    constexpr std::array<int64_t, 12> kOdd = {0,
                                              1,
                                              -1,
                                              2,
                                              3,
                                              7,
                                              -2,
                                              64,
                                              1 << 20,
                                              int64_t{1} << 40,
                                              std::numeric_limits<int64_t>::max(),
                                              std::numeric_limits<int64_t>::min()};
    return kOdd[below(kOdd.size())];
  }
  double number() {
    constexpr std::array<double, 9> kOdd = {0,
                                            -0.0,
                                            1,
                                            -1,
                                            0.5,
                                            1e308,
                                            std::numeric_limits<double>::infinity(),
                                            -std::numeric_limits<double>::infinity(),
                                            std::numeric_limits<double>::quiet_NaN()};
    return kOdd[below(kOdd.size())];
  }
  std::string text() {
    constexpr std::array<const char*, 9> kOdd = {"",    "mean",          "none", "sum", "i64",
                                                 "f16", "bidirectional", "tanh", "\xff"};
    return kOdd[below(kOdd.size())];
  }
};

/// The value and all that the plan's checker wants to be of its type: copies on other devices and what is written over
/// it.
std::vector<PlanIndex> type_class(const Plan& p, PlanIndex value) {
  std::vector<bool> is_in(p.values.size());
  is_in[value] = true;
  const auto join = [&](PlanIndex a, PlanIndex b) {
    if (a == kNone || b == kNone || is_in[a] == is_in[b]) return false;
    is_in[a] = is_in[b] = true;
    return true;
  };
  for (bool grows = true; grows;) {
    grows = false;
    for (const PlanTransfer& t : p.transfers) {
      for (size_t i = 0; i < t.sources.size(); ++i) grows = join(t.sources[i], t.destinations[i]) || grows;
    }
    for (const PlanNode& n : p.nodes) {
      for (size_t i = 0; i < n.outputs.size(); ++i) {
        const auto over = aliased_input(n.op, static_cast<int>(i));
        if (over) grows = join(n.outputs[i], n.inputs[static_cast<size_t>(*over)]) || grows;
      }
    }
    for (const PlanGradient& g : p.gradients) grows = join(g.parameter, g.gradient) || grows;
  }
  std::vector<PlanIndex> members;
  for (PlanIndex i = 0; i < p.values.size(); ++i) {
    if (is_in[i]) members.push_back(i);
  }
  return members;
}

/// Another type of a value; its literals follow.
void set_type(PlanValue& value, DType dtype, const std::vector<Shape>& shapes) {
  for (size_t i = 0; i < value.literals.size(); ++i) {
    const Literal& old = value.literals[i];
    const std::vector<std::byte> bytes(old.stored().begin(), old.stored().end());
    value.literals[i] = old.is_splat() ? Literal::splat(dtype, shapes[i], bytes) : Literal(dtype, shapes[i], bytes);
  }
  value.dtype = dtype;
  value.shapes = shapes;
}

/// Another shape of as many elements. Dimension 0 stays where it is the batch.
Shape reshaped(const Shape& shape, PlanDice& dice) {
  std::vector<int64_t> dims = shape.to_vector();
  if (dims.empty()) return Shape{1};
  const size_t at = dice.below(dims.size());
  switch (dice.below(4)) {
    case 0:
      if (dims.size() < kMaxRank) dims.insert(dims.begin() + static_cast<std::ptrdiff_t>(at) + 1, 1);
      break;
    case 1:
      std::swap(dims[at], dims[dice.below(dims.size())]);
      break;
    case 2:
      if (at + 1 < dims.size()) {
        dims[at] *= dims[at + 1];
        dims.erase(dims.begin() + static_cast<std::ptrdiff_t>(at) + 1);
      }
      break;
    default:
      if (at + 1 < dims.size() && dims[at + 1] % 2 == 0) {
        dims[at] *= 2;
        dims[at + 1] /= 2;
      }
  }
  return Shape(dims);
}

Attribute other_value(const Attribute& old, PlanDice& dice) {
  if (dice.below(8) == 0) return Attribute(dice.text());
  if (const auto* integer = std::get_if<int64_t>(&old)) {
    return dice.below(2) == 0 ? dice.integer() : int64_t(static_cast<uint64_t>(*integer) + dice.below(5) - 2);
  }
  if (std::holds_alternative<double>(old)) return dice.number();
  if (std::holds_alternative<std::string>(old)) return dice.text();
  if (const auto* list = std::get_if<std::vector<int64_t>>(&old)) {
    std::vector<int64_t> changed = *list;
    if (changed.empty() || dice.below(4) == 0) {
      changed.push_back(dice.integer());
    } else if (dice.below(4) == 0) {
      changed.pop_back();
    } else {
      int64_t& one = dice.pick(changed);
      one = dice.below(2) == 0 ? dice.integer() : int64_t(static_cast<uint64_t>(one) + dice.below(5) - 2);
    }
    return changed;
  }
  if (const auto* list = std::get_if<std::vector<double>>(&old)) {
    std::vector<double> changed = *list;
    changed.push_back(dice.number());
    return changed;
  }
  return int64_t{1};
}

/// Changes a node's operands together with the instructions that run it, so that they still agree.
void change_operands(Plan& p, PlanIndex node, const std::function<void(std::vector<PlanIndex>&)>& inputs,
                     const std::function<void(std::vector<PlanIndex>&)>& outputs) {
  inputs(p.nodes[node].inputs);
  outputs(p.nodes[node].outputs);
  for (Instruction& i : p.instructions) {
    if (i.action != Action::run || i.index != node) continue;
    inputs(i.reads);
    outputs(i.writes);
  }
}

struct Kind {
  std::string what;
  std::function<void(Plan&, PlanDice&)> apply;
};

void keep(std::vector<PlanIndex>&) {}

void swap_two(std::vector<PlanIndex>& list, size_t a, size_t b) {
  if (a < list.size() && b < list.size()) std::swap(list[a], list[b]);
}

std::vector<Kind> kinds() {
  using P = Plan&;
  using D = PlanDice&;
  return {
      {"another attribute value",
       [](P p, D dice) {
         for (int attempt = 0; attempt < 100; ++attempt) {
           Attributes& attributes = dice.pick(dice.pick(p.nodes).attributes);
           if (attributes.empty()) continue;
           const auto [name, value] = attributes.items()[dice.below(attributes.items().size())];
           attributes.set(name, other_value(value, dice));
           return;
         }
       }},
      {"an attribute less",
       [](P p, D dice) {
         for (int attempt = 0; attempt < 100; ++attempt) {
           Attributes& attributes = dice.pick(dice.pick(p.nodes).attributes);
           if (attributes.empty()) continue;
           attributes.erase(std::string(attributes.items()[dice.below(attributes.items().size())].first));
           return;
         }
       }},
      {"an attribute more",
       [](P p, D dice) {
         constexpr std::array<const char*, 6> kNames = {"axis", "axes", "training_mode", "unknown", "to", "perm"};
         dice.pick(dice.pick(p.nodes).attributes).set(kNames[dice.below(kNames.size())], dice.integer());
       }},
      {"another dtype of the same width",
       [](P p, D dice) {
         constexpr std::array<DType, 13> kTypes = {DType::f32, DType::i32, DType::u32,    DType::f64, DType::i64,
                                                   DType::u64, DType::f16, DType::bf16,   DType::i16, DType::u16,
                                                   DType::i8,  DType::u8,  DType::boolean};
         const auto value = static_cast<PlanIndex>(dice.below(p.values.size()));
         const DType old = p.values[value].dtype;
         for (size_t at = dice.below(kTypes.size());; at = (at + 1) % kTypes.size()) {
           if (kTypes[at] == old || dtype_bytes(kTypes[at]) != dtype_bytes(old)) continue;
           for (const PlanIndex member : type_class(p, value))
             set_type(p.values[member], kTypes[at], p.values[member].shapes);
           return;
         }
       }},
      {"another shape of as many elements",
       [](P p, D dice) {
         const auto value = static_cast<PlanIndex>(dice.below(p.values.size()));
         const uint32_t seed = static_cast<uint32_t>(dice.below(1000));
         for (const PlanIndex member : type_class(p, value)) {
           std::vector<Shape> shapes;
           for (const Shape& shape : p.values[member].shapes) {
             PlanDice same(seed);
             shapes.push_back(reshaped(shape, same));
           }
           set_type(p.values[member], p.values[member].dtype, shapes);
         }
       }},
      {"another recipe",
       [](P p, D dice) {
         for (int attempt = 0; attempt < 100; ++attempt) {
           PlanValue& value = dice.pick(p.values);
           if (value.kind != PlanValueKind::parameter) continue;
           std::vector<int64_t> turned;
           for (int axis = value.shapes[0].rank(); axis-- > 0;) turned.push_back(axis);
           WeightPart part{value.source, value.shapes[0], {}};
           value.recipe = {{part}, 0, {}, {}};
           switch (dice.below(6)) {
             case 0:
               value.recipe.perm = turned;
               break;
             case 1:
               value.recipe.parts[0].perm = turned;
               break;
             case 2:
               value.recipe.parts.push_back(part);
               break;
             case 3:
               value.recipe.axis = dice.integer();
               break;
             case 4:
               value.recipe.perm.push_back(dice.integer());
               break;
             default:
               value.recipe.parts[0].shape = reshaped(value.shapes[0], dice);
           }
           return;
         }
       }},
      {"another operator",
       [](P p, D dice) { dice.pick(p.nodes).op = static_cast<OpKind>(dice.below(static_cast<size_t>(kOpCount))); }},
      {"the operator and attributes of another node",
       [](P p, D dice) {
         PlanNode& a = dice.pick(p.nodes);
         PlanNode& b = dice.pick(p.nodes);
         std::swap(a.op, b.op);
         if (a.attributes.size() == b.attributes.size()) std::swap(a.attributes, b.attributes);
       }},
      {"two operands for each other",
       [](P p, D dice) {
         const auto node = static_cast<PlanIndex>(dice.below(p.nodes.size()));
         const size_t a = dice.below(4);
         const size_t b = dice.below(4);
         change_operands(
             p, node, [&](auto& list) { swap_two(list, a, b); }, keep);
       }},
      {"two results for each other",
       [](P p, D dice) {
         const auto node = static_cast<PlanIndex>(dice.below(p.nodes.size()));
         const size_t a = dice.below(3);
         const size_t b = dice.below(3);
         change_operands(p, node, keep, [&](auto& list) { swap_two(list, a, b); });
       }},
      {"an operand less",
       [](P p, D dice) {
         const auto node = static_cast<PlanIndex>(dice.below(p.nodes.size()));
         const size_t at = dice.below(4);
         const bool is_absent = dice.below(2) == 0;
         change_operands(
             p, node,
             [&](auto& list) {
               if (at >= list.size()) return;
               if (is_absent) {
                 list[at] = kNone;
               } else {
                 list.erase(list.begin() + static_cast<std::ptrdiff_t>(at));
               }
             },
             keep);
       }},
      {"an operand twice",
       [](P p, D dice) {
         const auto node = static_cast<PlanIndex>(dice.below(p.nodes.size()));
         const size_t from = dice.below(4);
         const size_t to = dice.below(5);
         change_operands(
             p, node,
             [&](auto& list) {
               if (from < list.size() && to <= list.size()) {
                 const PlanIndex again = list[from];
                 list.insert(list.begin() + static_cast<std::ptrdiff_t>(to), again);
               }
             },
             keep);
       }},
      {"an absent result more",
       [](P p, D dice) {
         const auto node = static_cast<PlanIndex>(dice.below(p.nodes.size()));
         change_operands(p, node, keep, [](auto& list) { list.push_back(kNone); });
       }},
      {"other content of a constant",
       [](P p, D dice) {
         for (int attempt = 0; attempt < 100; ++attempt) {
           PlanValue& value = dice.pick(p.values);
           if (value.literals.empty()) continue;
           Literal& literal = dice.pick(value.literals);
           std::vector<std::byte> bytes(literal.stored().begin(), literal.stored().end());
           for (std::byte& byte : bytes) byte = static_cast<std::byte>(dice.below(256));
           literal = literal.is_splat() ? Literal::splat(literal.dtype(), literal.shape(), bytes)
                                        : Literal(literal.dtype(), literal.shape(), bytes);
           return;
         }
       }},
      {"another role, phase, rate, name or workspace",
       [](P p, D dice) {
         switch (dice.below(9)) {
           case 0:
             dice.pick(p.inputs).role = static_cast<PlanInput::Role>(dice.below(4));
             break;
           case 1:
             dice.pick(p.inputs).is_batched ^= true;
             break;
           case 2:
             dice.pick(p.outputs).combine = static_cast<PlanOutput::Combine>(dice.below(3));
             break;
           case 3:
             dice.pick(p.nodes).phase = static_cast<PlanPhase>(dice.below(4));
             break;
           case 4:
             p.loss = static_cast<PlanIndex>(dice.below(p.outputs.size()));
             break;
           case 5:
             if (!p.gradients.empty()) std::swap(dice.pick(p.gradients).gradient, dice.pick(p.gradients).gradient);
             break;
           case 6:
             if (!p.updates.empty()) std::swap(dice.pick(p.updates).next, dice.pick(p.updates).next);
             break;
           case 7:
             std::swap(dice.pick(p.values).source, dice.pick(p.values).source);
             break;
           default:
             dice.pick(p.values).is_gradient ^= true;
         }
       }},
  };
}

/// What became of a plan: "ran", or the id of the error that ended it.
std::string run_both_ways(const Case& c, const Plan& changed) {
  try {
    const v1::Plan plan = v1::Plan::parse(print_plan(changed), "plan.json");
    for (const bool use_reference : {false, true}) {
      v1::SessionOptions options;
      options.use_reference = use_reference;
      v1::Session session(plan, c.model, options);
      for (const v1::TensorInfo& input : plan.inputs()) {
        session.bind(input.name, v1::random_tensor(input.dtype, input.shape, 1, input.name, input.bound));
      }
      session.step();
      for (const v1::TensorInfo& output : plan.outputs()) session.output(output.name);
    }
    return "ran";
  } catch (const Error& error) {
    const bool is_the_plans_fault = error.code() >= 3 && error.code() <= 5;
    CHECK_MESSAGE(is_the_plans_fault, std::string(error.what()));
    return std::string(error_name(error.id()));
  }
}

TEST_CASE("hostile plans: every change is refused when loading, or runs; none is an internal error") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    REQUIRE(run_both_ways(c, c.plan) == "ran");
    for (const Kind& kind : kinds()) {
      for (uint32_t seed = 0; seed < c.seeds; ++seed) {
        CAPTURE(kind.what);
        CAPTURE(seed);
        Plan plan = c.plan;
        PlanDice dice(seed);
        // What is drawn may be what is there already.
        for (int attempt = 0; attempt < 100 && plan == c.plan; ++attempt) kind.apply(plan, dice);
        run_both_ways(c, plan);
      }
    }
  }
}

/// The error of a plan that the plan's own checker accepts.
std::string refused_types(const Plan& plan) {
  check_plan(plan);
  try {
    api::check_node_types(plan);
  } catch (const Error& error) {
    CHECK(error.id() == ErrorId::M061);
    return error.what();
  }
  return "accepted";
}

PlanIndex node_of(const Plan& plan, OpKind op) {
  for (PlanIndex i = 0; i < plan.nodes.size(); ++i) {
    if (plan.nodes[i].op == op) return i;
  }
  FAIL("the plan has no " << op_name(op));
  return kNone;
}

TEST_CASE("hostile plans: what the plan's own checker cannot see is refused with the node's name and the operator") {
  const Plan& good = cases().front().plan;  // the perceptron
  CHECK(refused_types(good) == "accepted");
  const PlanIndex gemm = node_of(good, OpKind::Gemm);
  const std::string node = "node '" + good.nodes[gemm].name + "' (Gemm)";

  Plan plan = good;
  plan.nodes[gemm].attributes[0].set("transB", int64_t{1} - plan.nodes[gemm].attributes[0].integer("transB"));
  CHECK(refused_types(plan).find(node) == 0);
  plan = good;
  plan.nodes[gemm].attributes[0].erase("alpha");
  CHECK(refused_types(plan).find(node + ": attribute 'alpha' is not in its canonical form") == 0);
  plan = good;
  plan.nodes[gemm].attributes[1].set("transB", std::string("yes"));
  CHECK(refused_types(plan).find(node + ", in the last micro-batch: attribute 'transB' must be an integer") == 0);
  plan = good;
  PlanValue& weight = plan.values[plan.nodes[gemm].inputs[1]];
  set_type(weight, DType::i32, weight.shapes);
  CHECK(refused_types(plan).find(node + ": input 0 is f32 and input 1 is i32") == 0);
  plan = good;
  PlanValue& other = plan.values[plan.nodes[gemm].inputs[1]];
  set_type(other, DType::f32, {Shape{other.shapes[0].elements()}});
  CHECK(refused_types(plan).find(node) == 0);
}

}  // namespace
}  // namespace mpc::test
