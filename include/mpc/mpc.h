#pragma once

// mpc, the model-parallel compiler: splits an ONNX model over several devices, inserts the transfers, and runs it
// forward, backward and through the optimizer.
//
//   const mpc::Model model = mpc::Model::load("net.onnx");
//   const mpc::CompileResult result = mpc::compile(model, mpc::Cluster::devices("cpu:2"));
//   mpc::Session session(result.value(), model);
//   session.bind("x", mpc::Tensor::from<float>({64, 1000}, values));
//   session.step();
//   const std::vector<float> y = session.output("y").as<float>();

#include "mpc/cluster.h"
#include "mpc/compile.h"
#include "mpc/cost_graph.h"
#include "mpc/error.h"
#include "mpc/explain.h"
#include "mpc/model.h"
#include "mpc/namespace.h"
#include "mpc/parallel.h"
#include "mpc/plan.h"
#include "mpc/profile.h"
#include "mpc/session.h"
#include "mpc/tensor.h"
