#!/usr/bin/env python3
"""Step times of PyTorch on GPU 0 for what `mpc bench` measures: usage: compare_torch.py. Prints JSON.

f32 without TF32, random data, median of 20 steps after 5, timed with events. Models are built here from layers of the same
sizes as the sample models: resnet50 (batch 32, where torchvision is installed) and mlp 784-512-512-10 (batch 256).
"""
import json
import statistics

import torch

WARMUP = 5
STEPS = 20


def measured(step):
    for _ in range(WARMUP):
        step()
    times = []
    for _ in range(STEPS):
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return {"median_s": statistics.median(times), "fastest_s": min(times), "slowest_s": max(times)}


def models():
    mlp = torch.nn.Sequential(torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(),
                              torch.nn.Linear(512, 10))
    yield "mlp", mlp, torch.rand(256, 784), 10
    try:
        import torchvision
    except ImportError:
        return
    yield "resnet50", torchvision.models.resnet50(weights=None), torch.rand(32, 3, 224, 224), 1000


def main():
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    results = {"torch": torch.__version__, "device": torch.cuda.get_device_name(0), "steps": {}}
    for name, model, data, classes in models():
        model = model.cuda().eval()
        data = data.cuda()
        labels = torch.randint(classes, (data.shape[0],)).cuda()
        with torch.no_grad():
            results["steps"][f"{name}/eager"] = measured(lambda: model(data))
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

        def train():
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(data), labels).backward()
            optimizer.step()

        results["steps"][f"{name}/train/eager"] = measured(train)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
