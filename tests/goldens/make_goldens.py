#!/usr/bin/env python3
"""Trains the networks of the acceptance rows in PyTorch and stores what came out, for goldens_test.cpp to compare with.

usage: make_goldens.py MPC_PROGRAM [ROW ...]      writes data/ROW.safetensors beside this script; all rows by default

For developers; neither mpc nor its tests need it to run. It needs Python with torch, onnx, numpy and safetensors:
    python3 -m venv venv && venv/bin/pip install torch onnx numpy safetensors
    venv/bin/python tests/goldens/make_goldens.py build/dev/bin/mpc

The networks are torch.nn modules written from the source texts, not the ONNX graphs run by something else. Weights are
those of `mpc zoo`, inputs come from a generator that goldens_test.cpp has too. Each network makes two optimizer steps
on one batch, on the CPU in f32 and, where a row says so, in f64. The versions used are in the files' metadata.

Of a large tensor every stride-th element is stored (see KEPT); `NAME#sums` holds stride, number of elements, sum, L2
norm and largest magnitude of the whole tensor, in f64. Weights and gradients have the layout of the ONNX file.
"""
import dataclasses
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import safetensors.numpy
import torch
from torch import nn
from torch.nn import functional as F

from golden_file import Goldens

HERE = pathlib.Path(__file__).resolve().parent
STEPS = 2
# At most so many elements of a tensor are stored.
KEPT = {np.dtype(np.float32): 1024, np.dtype(np.float64): 512, np.dtype(np.int64): 512}


# ---- the networks, as the texts write them ---------------------------------------------------------------------------


class TwoLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Linear(1000, 500)
        self.layer2 = nn.Linear(500, 100)

    def forward(self, x):
        return self.layer2(self.layer1(x))


class SeqNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin1 = nn.Linear(784, 200)
        self.lin2 = nn.Linear(200, 10)

    def forward(self, x):
        return self.lin2(F.log_softmax(self.lin1(x.flatten(1)), dim=1))


class SeqNetDdp(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin1 = nn.Linear(784, 200)
        self.lin2 = nn.Linear(200, 200)
        self.lin3 = nn.Linear(200, 10)

    def forward(self, x):
        x = torch.sigmoid(self.lin1(x.flatten(1)))
        return self.lin3(F.log_softmax(self.lin2(x), dim=1))


class CnnClassifier(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.features = nn.ModuleDict({"conv": nn.Conv2d(3, 16, kernel_size=3, padding=1)})
        self.classifier = nn.ModuleDict({"fc": nn.Linear(features, 10)})

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.features["conv"](x)), 2)
        return self.classifier["fc"](torch.flatten(x, 1))


class EncoderDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"embedding": nn.Embedding(100, 32), "lstm": nn.LSTM(32, 64, batch_first=True)})
        self.decoder = nn.ModuleDict({"lstm": nn.LSTM(64, 64, batch_first=True), "linear": nn.Linear(64, 32)})
        self.classifier = nn.ModuleDict({"fc": nn.Linear(32, 10)})

    def forward(self, ids):
        x, _ = self.encoder["lstm"](self.encoder["embedding"](ids))
        x, _ = self.decoder["lstm"](x)
        return self.classifier["fc"](self.decoder["linear"](x).mean(dim=1))


class Hybrid(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(10, 10)

    def forward(self, x):
        return self.model(x / 2.0)


class HybridTrainable(nn.Module):
    def __init__(self):
        super().__init__()
        self.preprocess = nn.Linear(10, 10)
        self.model = nn.Linear(10, 10)

    def forward(self, x):
        return self.model(F.relu(self.preprocess(x)))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        branch = lambda: nn.ModuleDict({f"lin{i}": nn.Linear(256, 256) for i in (1, 2, 3)})
        self.branch_a = branch()
        self.branch_b = branch()
        self.join = nn.ModuleDict({"fc": nn.Linear(512, 10)})

    def forward(self, x):
        a = b = x
        for lin in self.branch_a.values():
            a = lin(a)
        for lin in self.branch_b.values():
            b = lin(b)
        return self.join["fc"](torch.cat([a, b], dim=1))


class ResidualCut(nn.Module):
    def __init__(self):
        super().__init__()
        self.stage0 = nn.Linear(64, 64)
        self.stage1 = nn.Linear(64, 64)
        self.stage2 = nn.Linear(64, 64)
        self.stage3 = nn.ModuleDict({"lin": nn.Linear(64, 64), "head": nn.Linear(64, 10)})

    def forward(self, x):
        stem = F.relu(self.stage0(x))
        h = self.stage2(F.relu(self.stage1(stem))) + stem
        return self.stage3["head"](F.relu(self.stage3["lin"](h)) + stem)


class TiedEmbedding(nn.Module):
    def __init__(self, vocabulary, hidden):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden)
        self.body = nn.Linear(hidden, hidden)

    def forward(self, ids):
        return F.linear(self.body(self.embed(ids)), self.embed.weight)


# ---- from the layout of the ONNX file to that of torch.nn, and back --------------------------------------------------


class Same:
    """The ONNX tensor is the parameter of the same name."""

    @staticmethod
    def parameters(name):
        return [name.replace("/", ".")]

    @staticmethod
    def to_torch(array):
        return [array]

    @staticmethod
    def to_onnx(parts):
        return parts[0]


class Transposed(Same):
    """A MatMul's operand (in, out); nn.Linear keeps (out, in)."""

    @staticmethod
    def to_torch(array):
        return [array.T]

    @staticmethod
    def to_onnx(parts):
        return parts[0].T


IOFC_TO_IFGO = [0, 2, 3, 1]  # block k of PyTorch is block IOFC_TO_IFGO[k] of ONNX; PyTorch's g is ONNX's c
IFGO_TO_IOFC = [0, 3, 1, 2]


def gates(array, order):
    """Reorders the four blocks of rows of an LSTM's weight or bias."""
    blocks = np.split(array, 4)
    return np.concatenate([blocks[i] for i in order])


class LstmWeight(Same):
    """(1, 4 hidden, n) with gates i, o, f, c; nn.LSTM keeps (4 hidden, n) with gates i, f, g, o."""

    @staticmethod
    def parameters(name):
        return [name.replace("/", ".") + "_l0"]

    @staticmethod
    def to_torch(array):
        return [gates(array[0], IOFC_TO_IFGO)]

    @staticmethod
    def to_onnx(parts):
        return gates(parts[0], IFGO_TO_IOFC)[None]


class LstmBias(Same):
    """(1, 8 hidden): the input's bias and then the hidden state's; two parameters of nn.LSTM."""

    @staticmethod
    def parameters(name):
        return [name.replace("/", ".") + suffix for suffix in ("_ih_l0", "_hh_l0")]

    @staticmethod
    def to_torch(array):
        return [gates(half, IOFC_TO_IFGO) for half in np.split(array[0], 2)]

    @staticmethod
    def to_onnx(parts):
        return np.concatenate([gates(part, IFGO_TO_IOFC) for part in parts])[None]


def layout(row, name):
    if "lstm/weight" in name:
        return LstmWeight
    if "lstm/bias" in name:
        return LstmBias
    return Transposed if name in row.transposed else Same


# ---- the rows --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Input:
    name: str
    shape: tuple
    bound: int = 0  # integers in [0, bound); 0: floats in [-1, 1)


@dataclasses.dataclass
class Row:
    model: str  # of `mpc zoo`
    network: object  # () -> nn.Module
    inputs: list  # the last one is the labels
    loss: object  # (output, labels) -> scalar
    optimizers: list  # [(prefix of parameter names, function of parameters)]
    transposed: tuple = ()
    clip_norm: float = 0
    f64: bool = True


def sgd(lr, momentum=0):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def adam(lr):
    return lambda parameters: torch.optim.Adam(parameters, lr=lr)


def cross_entropy(output, labels):
    """Mean over all positions; the classes are the output's last dimension."""
    return F.cross_entropy(output.reshape(-1, output.shape[-1]), labels.reshape(-1))


def tied_row(clip_norm):
    inputs = [Input("ids", (32, 20), 100), Input("labels", (32, 20), 100)]
    return Row("tied-embedding", lambda: TiedEmbedding(100, 32), inputs, cross_entropy, [("", adam(0.01))],
               transposed=("body/weight",), clip_norm=clip_norm)


def cnn_row(model, pixels, features, f64):
    inputs = [Input("x", (64, 3, pixels, pixels)), Input("labels", (64,), 10)]
    return Row(model, lambda: CnnClassifier(features), inputs, cross_entropy,
               [("features.", adam(0.001)), ("classifier.", adam(0.001))], f64=f64)


ROWS = {
    "two-linear": Row("two-linear", TwoLinear, [Input("x", (64, 1000)), Input("labels", (64, 100))],
                      F.mse_loss, [("", sgd(0.1))]),
    "seqnet": Row("seqnet", SeqNet, [Input("x", (100, 1, 28, 28)), Input("labels", (100,), 10)],
                  cross_entropy, [("", adam(0.01))]),
    "seqnet-ddp": Row("seqnet-ddp", SeqNetDdp, [Input("x", (100, 1, 28, 28)), Input("labels", (100,), 10)],
                      cross_entropy, [("", adam(0.01))]),
    "cnn-classifier": cnn_row("cnn-classifier", 64, 16384, f64=False),
    "cnn-classifier-32": cnn_row("cnn-classifier-32", 32, 4096, f64=True),
    "encoder-decoder": Row("encoder-decoder", EncoderDecoder, [Input("ids", (32, 20), 100), Input("labels", (32,), 10)],
                           cross_entropy, [(part, adam(0.001)) for part in ("encoder.", "decoder.", "classifier.")],
                           transposed=("decoder/linear/weight",)),
    "hybrid": Row("hybrid", Hybrid, [Input("x", (32, 10)), Input("labels", (32, 10))], F.mse_loss, [("", adam(0.001))]),
    "hybrid-trainable": Row("hybrid-trainable", HybridTrainable, [Input("x", (32, 10)), Input("labels", (32, 10))],
                            F.mse_loss, [("", adam(0.001))]),
    "branches": Row("branches", Branches, [Input("x", (64, 256)), Input("labels", (64,), 10)],
                    cross_entropy, [("", sgd(0.01))]),
    "residual-cut": Row("residual-cut", ResidualCut, [Input("x", (32, 64)), Input("labels", (32,), 10)],
                        cross_entropy, [("", sgd(0.01, momentum=0.9))]),
    "tied-embedding": tied_row(clip_norm=0),
    "tied-embedding-clipped": tied_row(clip_norm=0.05),
}


# ---- inputs, as goldens_test.cpp makes them --------------------------------------------------------------------------


def mix_bits(x):
    """compiler/base/random.h."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def content(index, spec):
    """Input number `index` of a row. Floats are multiples of 2^-23, exact in f32."""
    count = int(np.prod(spec.shape))
    words = mix_bits(np.arange(count, dtype=np.uint64) + (np.uint64(index + 1) << np.uint64(32)))
    if spec.bound:
        return (words % np.uint64(spec.bound)).astype(np.int64).reshape(spec.shape)
    return ((words >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0).astype(np.float32).reshape(spec.shape)


# ---- the files -------------------------------------------------------------------------------------------------------


def train(row, initial, inputs, dtype, goldens):
    prefix = {torch.float32: "f32", torch.float64: "f64"}[dtype]
    network = row.network().to(dtype)
    parameters = dict(network.named_parameters())
    untouched = set(parameters)
    for name, array in initial.items():
        rule = layout(row, name)
        for parameter, part in zip(rule.parameters(name), rule.to_torch(array), strict=True):
            with torch.no_grad():
                assert parameters[parameter].shape == part.shape, (name, part.shape)
                parameters[parameter].copy_(torch.from_numpy(part.copy()))
            untouched.remove(parameter)
    assert not untouched, untouched

    def in_onnx_layout(name, of):
        rule = layout(row, name)
        return rule.to_onnx([of(parameters[p]).detach().numpy() for p in rule.parameters(name)])

    tensors = [torch.from_numpy(array) for array in inputs]
    tensors = [t.to(dtype) if t.is_floating_point() else t for t in tensors]
    optimizers = [make([p for n, p in parameters.items() if n.startswith(part)]) for part, make in row.optimizers]
    for step in range(1, STEPS + 1):
        for optimizer in optimizers:
            optimizer.zero_grad()
        output = network(*tensors[:-1])
        loss = row.loss(output, tensors[-1])
        loss.backward()
        goldens.add(f"{prefix}/step{step}/loss", np.array([loss.item()]))
        goldens.add(f"{prefix}/step{step}/output", output.detach().numpy())
        for name in initial:
            goldens.add(f"{prefix}/step{step}/gradient of {name}", in_onnx_layout(name, lambda p: p.grad))
        if row.clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters.values(), row.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
    for name in initial:
        goldens.add(f"{prefix}/weight {name}", in_onnx_layout(name, lambda p: p))


def zoo_weights(mpc, model):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        subprocess.run([mpc, "zoo", model, "-o", path, "--quiet"], check=True)
        graph = onnx.load(path).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # What is left out are shapes, axes and the constant that `hybrid` divides by.
    return {name: array for name, array in arrays.items() if array.dtype == np.float32 and array.ndim > 0}


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the same sums in the same order, whoever runs this
    for key in sys.argv[2:] or ROWS:
        row = ROWS[key]
        goldens = Goldens(KEPT)
        initial = zoo_weights(sys.argv[1], row.model)
        inputs = [content(index, spec) for index, spec in enumerate(row.inputs)]
        for spec, array in zip(row.inputs, inputs):
            goldens.add("input " + spec.name, array)
        for name, array in initial.items():
            goldens.add("initial " + name, array)
        train(row, initial, inputs, torch.float32, goldens)
        if row.f64:
            train(row, initial, inputs, torch.float64, goldens)
        path = HERE / "data" / (key + ".safetensors")
        made_with = f"torch {torch.__version__}, numpy {np.__version__}"
        safetensors.numpy.save_file(goldens.tensors, path, {"made_with": made_with})
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
