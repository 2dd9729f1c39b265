#!/usr/bin/env python3
"""Exports small PyTorch networks to ONNX, and stores what ONNX Runtime and PyTorch compute with them.

usage: make_models.py [NAME ...]      writes data/NAME/ beside this script; all models by default

For developers; neither mpc nor its tests need it to run. It needs Python with torch, onnx, onnxruntime, onnxscript and
safetensors:
    python3 -m venv venv && venv/bin/pip install torch onnx onnxruntime onnxscript safetensors
    venv/bin/python tests/exporters/make_models.py

A folder holds
    model.onnx           as the exporter wrote it, less the stack traces that it keeps of every node
    test_data_set_0, 1   inputs and ONNX Runtime's outputs, laid out as the ONNX backend suite; two batch sizes
    labels.npy           labels for the inputs of test_data_set_0
    training.safetensors loss and gradients of two SGD steps in PyTorch on those (see ../goldens/make_goldens.py);
                         gradients are named after the file's initializers, and in their layout
The versions used are in the metadata of training.safetensors.
"""
import copy
import pathlib
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import safetensors.numpy
import torch
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "goldens"))
from golden_file import Goldens  # noqa: E402
from make_goldens import cross_entropy  # noqa: E402

STEPS = 2
LEARNING_RATE = 0.1
KEPT = {np.dtype(np.float32): 256, np.dtype(np.float64): 256}  # elements stored of a gradient
VOCABULARY, WIDTH, HEADS, LAYERS, POSITIONS = 48, 24, 3, 2, 16


# ---- the networks ----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A transformer layer around scaled_dot_product_attention, as in GPT-2."""

    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        b, t, w = x.shape
        q, k, v = (y.view(b, t, HEADS, w // HEADS).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(attended.transpose(1, 2).reshape(b, t, w))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Encoder(nn.Module):
    """PyTorch's own transformer layers and nn.MultiheadAttention, with a causal mask."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(0.1 * torch.randn(POSITIONS, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.1, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids):
        length = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return self.head(self.layers(self.tokens(ids) + self.positions[:length], mask=mask, is_causal=True))


class Residual(nn.Module):
    def __init__(self, ins, outs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outs)
        self.shortcut = nn.Identity()
        if stride != 1 or ins != outs:
            self.shortcut = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))

    def forward(self, x):
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(x))


class Cnn(nn.Module):
    def __init__(self, dropout=0.2):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                                  nn.MaxPool2d(3, 2, 1))
        self.block1 = Residual(8, 8, 1)
        self.block2 = Residual(8, 16, 2)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        h = self.pool(self.block2(self.block1(self.stem(x))))
        return self.fc(self.dropout(h.flatten(1)))


class Gram(nn.Module):
    """Down and up again by convolutions, and Einsum as a layer and as a product of activations."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.up = nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1)
        self.mix = nn.Parameter(torch.randn(5, 6))
        self.fc = nn.Linear(30, 10)

    def forward(self, x):
        h = self.up(F.silu(self.norm(self.down(x))))
        mixed = torch.einsum("nchw,oc->nohw", h, self.mix)
        gram = torch.einsum("nohw,nchw->noc", mixed, h) / 256
        return self.fc(gram.flatten(1))


class Recurrent(nn.Module):
    """Two layers of a GRU in both directions."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.gru = nn.GRU(WIDTH, POSITIONS, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * POSITIONS, VOCABULARY)

    def forward(self, ids):
        return self.head(self.gru(self.tokens(ids))[0])


def trained(network):
    """As if it had been trained: no two weights are alike, so that the exporter merges none, and running averages are
    those of some data."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return network


def fused(network):
    """The network that the exporters write for inference: normalization is part of the convolution before it."""
    fuse = torch.nn.utils.fuse_conv_bn_eval
    network.stem[0], network.stem[1] = fuse(network.stem[0], network.stem[1]), nn.Identity()
    for block in (network.block1, network.block2):
        block.conv1, block.norm1 = fuse(block.conv1, block.norm1), nn.Identity()
        block.conv2, block.norm2 = fuse(block.conv2, block.norm2), nn.Identity()
        if isinstance(block.shortcut, nn.Sequential):
            block.shortcut = fuse(*block.shortcut)
    return network.requires_grad_(True)


# ---- the exporters ---------------------------------------------------------------------------------------------------


def dynamo(network, x, name, output, dynamic, path, opset=None):
    program = torch.onnx.export(network, (x,), dynamo=True, input_names=[name], output_names=[output],
                                dynamic_shapes=(dynamic,) if dynamic else None, opset_version=opset, verbose=False)
    program.save(path, external_data=False)


def torchscript(network, x, name, output, dynamic, path, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of this exporter as a whole
        torch.onnx.export(network, (x,), path, dynamo=False, input_names=[name], output_names=[output],
                          dynamic_axes={name: dynamic, output: dynamic}, **more)


def dynamo_23(*arguments):
    """Opset 23 has an operator for attention."""
    dynamo(*arguments, opset=23)


def torchscript_training(network, *arguments):
    """With batch statistics and running averages, as a training loop exports it."""
    torchscript(network.train(), *arguments, training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False)


def without_traces(path):
    """Metadata of nodes and values says where on the exporting machine the source lay."""
    model = onnx.load(path)
    for entries in (model.graph.node, model.graph.value_info, model.graph.input, model.graph.output, [model.graph]):
        for entry in entries:
            entry.ClearField("metadata_props")
            entry.ClearField("doc_string")
    onnx.save(model, path)
    return model


# ---- what is stored --------------------------------------------------------------------------------------------------


def tokens(rows, length):
    return torch.randint(0, VOCABULARY, (rows, length))


def images(rows, _):
    return torch.randn(rows, 3, 16, 16)


BATCH = {0: "batch"}
TEXT = {0: "batch", 1: "sequence"}
# name: network, network that is trained for comparison, exporter, input, output, dynamic axes, content
MODELS = {
    "gpt-dynamo": (Gpt, None, dynamo, "ids", "logits", BATCH, tokens),
    "gpt-dynamo-fixed": (Gpt, None, dynamo, "ids", "logits", {}, tokens),
    "gpt-dynamo-23": (Gpt, None, dynamo_23, "ids", "logits", TEXT, tokens),
    "gpt-torchscript": (Gpt, None, torchscript, "ids", "logits", TEXT, tokens),
    "encoder-dynamo": (Encoder, None, dynamo, "ids", "logits", BATCH, tokens),
    "encoder-torchscript": (Encoder, None, torchscript, "ids", "logits", BATCH, tokens),
    "cnn-dynamo": (Cnn, fused, dynamo, "x", "y", BATCH, images),
    "cnn-torchscript": (Cnn, fused, torchscript, "x", "y", BATCH, images),
    "gram-dynamo": (Gram, None, dynamo, "x", "y", BATCH, images),
    "gram-torchscript": (Gram, None, torchscript, "x", "y", BATCH, images),
    "gru-dynamo": (Recurrent, None, dynamo, "ids", "logits", BATCH, tokens),
    "gru-torchscript": (Recurrent, None, torchscript, "ids", "logits", BATCH, tokens),
    "cnn-training": (lambda: Cnn(dropout=0), None, torchscript_training, "x", "y", BATCH, images),
}


def layouts(array):
    """The ways in which exporters write a parameter: as it is, per channel, transposed for MatMul, its first rows."""
    yield lambda a: a
    if array.ndim == 1:
        yield lambda a: a.reshape(-1, 1, 1)
    if array.ndim == 2:
        yield lambda a: a.T
        for rows in range(1, array.shape[0]):
            yield lambda a, rows=rows: a[:rows]


def gru_gates(array):
    """ONNX has the gates in the order update, reset, new; PyTorch has reset, update, new."""
    reset, update, new = np.split(array, 3)
    return np.concatenate([update, reset, new])


def holders(network):
    """What an initializer may hold: names of parameters, and the function that makes it of them."""
    for name, parameter in network.named_parameters():
        for layout in layouts(parameter.detach().numpy()):
            yield [name], layout
    for prefix, module in network.named_modules():
        if not isinstance(module, nn.GRU):
            continue
        for layer in range(module.num_layers):
            of = [f"_l{layer}" + direction for direction in ([""] if not module.bidirectional else ["", "_reverse"])]
            for kind in ("weight_ih", "weight_hh"):
                yield [f"{prefix}.{kind}{d}" for d in of], lambda *arrays: np.stack([gru_gates(a) for a in arrays])
            biases = [f"{prefix}.{kind}{d}" for d in of for kind in ("bias_ih", "bias_hh")]
            yield biases, lambda *arrays: np.concatenate([gru_gates(a) for a in arrays]).reshape(len(arrays) // 2, -1)


def match_parameters(model, network):
    """For each float initializer: the parameters it holds, and how; known by name or by content."""
    parameters = {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}
    buffers = dict(network.named_buffers())
    matches = {}
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or np.ptp(array) == 0 or tensor.name in buffers:
            continue  # numbers of a formula (no weight has one number only, see trained()), or running averages
        if array.min() == np.finfo(np.float32).min:
            continue  # a mask
        found = []
        for names, make in holders(network):
            made = make(*(parameters[name] for name in names))
            if made.shape == array.shape and np.allclose(made, array, rtol=1e-5, atol=1e-6):
                found.append((names, make))
        assert len(found) == 1, (tensor.name, array.shape, found)
        matches[tensor.name] = found[0]
    missing = set(parameters) - {name for names, _ in matches.values() for name in names}
    assert not missing, missing
    return matches


def write_set(folder, number, session, name, x):
    target = folder / f"test_data_set_{number}"
    target.mkdir(exist_ok=True)
    result, = session.run(None, {name: x.numpy()})
    for kind, array, of in (("input", x.numpy(), name), ("output", result, session.get_outputs()[0].name)):
        (target / f"{kind}_0.pb").write_bytes(onnx.numpy_helper.from_array(array, of).SerializeToString())
    return result


def main():
    if any(argument.startswith("-") for argument in sys.argv[1:]):
        sys.exit(__doc__)
    torch.set_num_threads(1)
    for key in sys.argv[1:] or MODELS:
        make, prepare, export, name, output, dynamic, content = MODELS[key]
        torch.manual_seed(0)
        folder = HERE / "data" / key
        folder.mkdir(parents=True, exist_ok=True)
        network = trained(make()).eval()
        original = copy.deepcopy(network)
        first, second = content(3, 12), content(5 if dynamic else 3, 7 if len(dynamic) == 2 else 12)
        path = folder / "model.onnx"
        export(network, first, name, output, dynamic, path)
        model = without_traces(path)
        is_training = network.training
        if not is_training:  # ONNX Runtime for inference does not run batch normalization that trains
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            result = write_set(folder, 0, session, name, first)
            write_set(folder, 1, session, name, second)
            np.testing.assert_allclose(result, network(first).detach().numpy(), rtol=1e-4, atol=1e-5)
        else:
            target = folder / "test_data_set_0"
            target.mkdir(exist_ok=True)
            (target / "input_0.pb").write_bytes(onnx.numpy_helper.from_array(first.numpy(), name).SerializeToString())

        reference = prepare(original) if prepare else original.train(is_training)
        exported = {tensor.name: tensor for tensor in model.graph.initializer}
        for buffer, array in reference.named_buffers():
            if buffer in exported:  # exporting for training runs the network, which moves its averages
                array.copy_(torch.from_numpy(onnx.numpy_helper.to_array(exported[buffer]).copy()))
        labels = torch.randint(0, 10, (3,)) if content is images else tokens(3, 12)
        np.save(folder / "labels.npy", labels.numpy())
        goldens = Goldens(KEPT)
        matches = match_parameters(model, reference)
        optimizer = torch.optim.SGD(reference.parameters(), lr=LEARNING_RATE)
        for step in range(1, STEPS + 1):
            optimizer.zero_grad()
            loss = cross_entropy(reference(first), labels)
            loss.backward()
            goldens.add(f"step{step}/loss", np.array([loss.item()]))
            gradients = {n: p.grad.numpy() for n, p in reference.named_parameters()}
            for initializer, (names, make) in matches.items():
                goldens.add(f"step{step}/gradient of {initializer}", make(*(gradients[name] for name in names)))
            optimizer.step()
        if is_training:
            for buffer, array in reference.named_buffers():
                # ONNX averages the batch's own variance, PyTorch the unbiased estimate: only means are alike.
                if buffer.endswith("running_mean"):
                    goldens.add(f"final {buffer}", array.numpy())
        made_with = ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, onnx, onnxruntime, np))
        safetensors.numpy.save_file(goldens.tensors, folder / "training.safetensors", {"made_with": made_with})
        print(f"{key}: {path.stat().st_size} bytes, opset {model.opset_import[0].version}, {len(matches)} parameters")


if __name__ == "__main__":
    main()
