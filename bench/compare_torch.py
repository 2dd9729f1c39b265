#!/usr/bin/env python3
"""Step times and memory of mpc beside those of PyTorch on the same device.

usage: compare_torch.py [--mpc PROGRAM] [--device cuda|cpu] [--small] [--steps N] [--minutes N] [--only NAME]... [OUT.json]

For every row of CASES the same network is measured four times: mpc, and PyTorch eager, under torch.compile, and as a
CUDA graph. Same sizes, loss, optimizer and precision (f32 without TF32, or bf16: parameters in f32, products in bf16);
random weights and data of seed 0; the median of N steps (default 20) after 5, by the clock of the host around
synchronized steps. Batch normalization has fixed statistics on both sides, as in the sample models. Memory is what the
process's peak allocation was (PyTorch) or its arenas (mpc), without the context.
  --mpc      the program (default: bin/mpc beside this file, else build/release/bin/mpc); mpc is left out where it is not
  --device   cpu is for trying the program where there is no GPU: all in f32
  --small    tiny sizes, to try everything in seconds
  --minutes  no new measurement is begun after this long (default 60); what is left out is listed
  --only     this row; may be repeated
Prints a table, and writes JSON with versions to OUT.json, or to the standard output.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
WARMUP = 5


class Mlp(nn.Sequential):
    def __init__(self, size):
        hidden = size["hidden"]
        super().__init__(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))


class Bottleneck(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width))
        is_same = stride == 1 and channels == 4 * width
        self.shortcut = nn.Identity() if is_same else nn.Sequential(
            nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet50(nn.Sequential):
    def __init__(self, size):
        width = size["width"]
        layers = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        channels = width
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                layers.append(Bottleneck(channels, width << stage, 2 if block == 0 and stage > 0 else 1))
                channels = 4 * (width << stage)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, size["classes"]))

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class Block(nn.Module):
    """One layer of a transformer: norm before (GPT-2) or after (BERT) attention and feed-forward."""

    def __init__(self, hidden, heads, is_causal, approximate):
        super().__init__()
        self.heads, self.is_causal, self.approximate = heads, is_causal, approximate
        self.ln1, self.ln2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def attend(self, x):
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def feed(self, x):
        return self.down(F.gelu(self.up(x), approximate=self.approximate))

    def forward(self, x):
        if self.is_causal:
            x = x + self.attend(self.ln1(x))
            return x + self.feed(self.ln2(x))
        x = self.ln1(x + self.attend(x))
        return self.ln2(x + self.feed(x))


class Bert(nn.Module):
    def __init__(self, size):
        super().__init__()
        hidden = size["hidden"]
        self.words, self.types = nn.Embedding(size["vocab"], hidden), nn.Embedding(2, hidden)
        self.positions, self.ln = nn.Embedding(size["positions"], hidden), nn.LayerNorm(hidden, 1e-12)
        self.blocks = nn.Sequential(*(Block(hidden, size["heads"], False, "none") for _ in range(size["layers"])))

    def forward(self, ids):
        h = self.words(ids) + self.positions.weight[:ids.shape[1]] + self.types.weight[0]
        return self.blocks(self.ln(h))


class Gpt2(nn.Module):
    def __init__(self, size):
        super().__init__()
        hidden = size["hidden"]
        self.wte, self.wpe = nn.Embedding(size["vocab"], hidden), nn.Embedding(size["positions"], hidden)
        self.blocks = nn.Sequential(*(Block(hidden, size["heads"], True, "tanh") for _ in range(size["layers"])))
        self.ln = nn.LayerNorm(hidden)

    def forward(self, ids):
        h = self.blocks(self.wte(ids) + self.wpe.weight[:ids.shape[1]])
        return F.linear(self.ln(h), self.wte.weight)


class EncoderDecoder(nn.Module):
    """Embedding, LSTM | LSTM, Linear | mean, Linear."""

    def __init__(self, _):
        super().__init__()
        self.embedding = nn.Embedding(100, 32)
        self.encoder, self.decoder = nn.LSTM(32, 64, batch_first=True), nn.LSTM(64, 64, batch_first=True)
        self.linear, self.fc = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, ids):
        return self.fc(self.linear(self.decoder(self.encoder(self.embedding(ids))[0])[0]).mean(1))


def images(size, batch):
    return torch.rand(batch, 3, size["image"], size["image"]), (batch,), size["classes"]


def pixels(_, batch):
    return torch.rand(batch, 784), (batch,), 10


def sentences(size, batch):
    return torch.randint(size["vocab"], (batch, size["sequence"])), (batch, size["sequence"]), size["vocab"]


def letters(size, batch):
    return torch.randint(100, (batch, size["sequence"])), (batch,), 10


BERT = {"layers": 12, "hidden": 768, "heads": 12, "vocab": 30522, "positions": 512, "sequence": 128}
GPT2 = {"layers": 12, "hidden": 768, "heads": 12, "vocab": 50257, "positions": 1024, "sequence": 1024}
GPT2_XL = {**GPT2, "layers": 48, "hidden": 1600, "heads": 25}
RESNET = {"image": 224, "classes": 1000, "width": 64}
TINY = {"layers": 2, "hidden": 32, "heads": 2, "vocab": 64, "positions": 64, "sequence": 16, "image": 32, "width": 8, "classes": 10}
SGD, ADAM = "sgd,lr=0.01", "adamw,lr=0.0001,weight_decay=0.01"
# (name, sample model, network, data, sizes, batch, precision, loss and optimizer or None for a forward pass)
CASES = [
    ("mlp-train", "mlp", Mlp, pixels, {"hidden": 512}, 256, "f32", ("cross-entropy", SGD)),
    ("resnet50-train", "resnet50", ResNet50, images, RESNET, 256, "bf16", ("cross-entropy", SGD)),
    ("resnet50-b1", "resnet50", ResNet50, images, RESNET, 1, "bf16", None),
    ("bert-train", "bert-base", Bert, sentences, BERT, 32, "bf16", ("mse", ADAM)),
    ("bert-b1", "bert-base", Bert, sentences, BERT, 1, "bf16", None),
    ("gpt2-train", "gpt2", Gpt2, sentences, GPT2, 16, "bf16", ("cross-entropy", ADAM)),
    ("gpt2-xl-train", "gpt2-xl", Gpt2, sentences, GPT2_XL, 4, "bf16", ("cross-entropy", ADAM)),
    ("lstm-train", "encoder-decoder", EncoderDecoder, letters, {"sequence": 64}, 32, "f32", ("cross-entropy", ADAM)),
]


class Step:
    """A step of PyTorch on data that stays."""

    def __init__(self, case, size, batch, device):
        _, _, network, data, _, _, precision, training = case
        torch.manual_seed(0)
        x, labels, classes = data(size, batch)
        self.x, self.device = x.to(device), device
        self.model = network(size).to(device)
        self.autocast = precision == "bf16"
        self.training = training
        if training is None:
            self.model.eval()
            return
        self.model.train()
        loss, optimizer = training
        if loss == "mse":
            self.target = torch.rand_like(self.forward().detach().float())
        else:
            self.target = torch.randint(classes, labels).to(device)
        self.loss = loss
        parameters = self.model.parameters()
        is_cuda = device == "cuda"
        self.optimizer = (torch.optim.SGD(parameters, lr=0.01, fused=is_cuda) if optimizer.startswith("sgd") else
                          torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=is_cuda, capturable=is_cuda))

    def forward(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            return self.model(self.x)

    def __call__(self):
        if self.training is None:
            with torch.no_grad():
                return self.forward()
        self.optimizer.zero_grad(set_to_none=True)
        y = self.forward().float()
        loss = F.mse_loss(y, self.target) if self.loss == "mse" else F.cross_entropy(y.flatten(0, -2), self.target.flatten())
        loss.backward()
        self.optimizer.step()
        return loss


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def measured(step, device, steps):
    for _ in range(WARMUP):
        step()
    times = []
    for _ in range(steps):
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return {"median_s": statistics.median(times), "fastest_s": min(times), "slowest_s": max(times), "steps": steps}


def as_graph(step):
    """The step as one CUDA graph, warmed up on a side stream as PyTorch asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def of_torch(case, size, batch, device, mode, steps):
    if mode == "cuda-graph" and device != "cuda":
        return {"left_out": "CUDA graphs need CUDA"}
    step = Step(case, size, batch, device)
    if mode == "compile":
        step.model = torch.compile(step.model)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run = as_graph(step) if mode == "cuda-graph" else step
    result = measured(run, device, steps)
    if device == "cuda":
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    return result


def of_mpc(program, case, size, batch, device, steps, folder):
    name, model, _, _, _, _, precision, training = case
    path = pathlib.Path(folder) / f"{name}.onnx"
    sizes = [word for key, value in size.items() for word in ("--size", f"{key}={value}")]
    subprocess.run([program, "zoo", model, "-o", path, "--batch", str(batch), "--seed", "0", *sizes], check=True, capture_output=True)
    words = [program, "bench", path, "--devices", "cuda:0" if device == "cuda" else "cpu:1", "--precision", precision, "--warmup", str(WARMUP),
             "--repetitions", str(steps), "--seed", "0", "--quiet", "--json", "-"]
    if training is not None:
        words += ["--train", "--loss", training[0], "--optimizer", training[1]]
    answer = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return {"median_s": answer["median_seconds"], "steps": answer["repetitions"], "peak_bytes": sum(answer["measured"]["peak_bytes"])}


def size_of(case, is_small):
    sizes = case[4]
    return {key: TINY.get(key, 32) for key in sizes} if is_small else sizes


def machine(device):
    found = {"torch": torch.__version__, "python": sys.version.split()[0], "device": device}
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(0), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].removeprefix("usage: "), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    near = HERE / "bin" / "mpc"
    parser.add_argument("--mpc", default=near if near.exists() else HERE.parent / "build" / "release" / "bin" / "mpc", type=pathlib.Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--only", action="append", default=[], choices=[case[0] for case in CASES])
    parser.add_argument("out", nargs="?", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = arguments.device
    results = {"version": 1, "machine": machine(device), "small": arguments.small, "rows": {}}
    end = time.monotonic() + 60 * arguments.minutes
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if arguments.only and case[0] not in arguments.only:
                continue
            if device == "cpu":
                case = (*case[:6], "f32", case[7])
            size, batch = size_of(case, arguments.small), min(case[5], 4) if arguments.small else case[5]
            row = results["rows"][case[0]] = {"batch": batch, "sizes": size, "precision": case[6], "training": case[7]}
            ways = {mode: lambda mode=mode: of_torch(case, size, batch, device, mode, arguments.steps) for mode in ("eager", "compile", "cuda-graph")}
            if arguments.mpc.exists():
                ways = {"mpc": lambda: of_mpc(arguments.mpc, case, size, batch, device, arguments.steps, folder), **ways}
            for way, measure in ways.items():
                if time.monotonic() > end:
                    row[way] = {"left_out": "no time was left"}
                    continue
                try:
                    row[way] = measure()
                except subprocess.CalledProcessError as error:
                    row[way], failed = {"error": (error.stderr or "")[-500:] if isinstance(error.stderr, str) else str(error)}, True
                except RuntimeError as error:  # out of memory, an operator without a kernel
                    row[way], failed = {"error": f"{type(error).__name__}: {error}"[-500:]}, True
                if device == "cuda":
                    torch.cuda.empty_cache()
                found = row[way]
                text = f"{1e3 * found['median_s']:10.3f} ms" if "median_s" in found else next(iter(found.values())).splitlines()[0][:80]
                memory = f"{found['peak_bytes'] / 2**20:10.1f} MiB" if "peak_bytes" in found else ""
                print(f"{case[0]:16s} {way:11s} {text} {memory}", file=sys.stderr, flush=True)
    text = json.dumps(results, indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
