#!/usr/bin/env python3
"""Exports a small JAX network with jax2onnx, and stores what ONNX Runtime and JAX compute with it.

usage: make_jax_model.py      writes data/attention-jax/ beside this script, as make_models.py does for PyTorch

For developers; neither mpc nor its tests need it to run. It needs Python with jax2onnx, onnxruntime and safetensors:
    python3 -m venv venv && venv/bin/pip install jax2onnx onnxruntime safetensors
    venv/bin/python tests/exporters/make_jax_model.py
"""
import pathlib
import sys

import jax
import jax.numpy as jnp
import jax2onnx
import numpy as np
import onnx
import onnxruntime
import safetensors.numpy

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "goldens"))
from golden_file import Goldens  # noqa: E402

STEPS = 2
LEARNING_RATE = 0.1
KEPT = {np.dtype(np.float32): 256, np.dtype(np.float64): 256}
LENGTH, WIDTH, CLASSES = 6, 16, 10


def make_parameters(key):
    shapes = {"query": (WIDTH, WIDTH), "key": (WIDTH, WIDTH), "value": (WIDTH, WIDTH), "up": (WIDTH, 4 * WIDTH),
              "down": (4 * WIDTH, WIDTH), "head": (WIDTH, CLASSES)}
    keys = jax.random.split(key, len(shapes))
    return {name: jax.random.normal(k, shape) / shape[0] ** 0.5 for k, (name, shape) in zip(keys, shapes.items())}


def network(parameters, x):
    """A causal attention layer and a perceptron with residual sums, and a classifier of the mean."""
    centred = x - x.mean(-1, keepdims=True)
    h = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    query = jnp.einsum("btd,de->bte", h, parameters["query"])
    scores = jnp.einsum("bqd,bkd->bqk", query, h @ parameters["key"]) / WIDTH**0.5
    scores = jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), scores, -1e9)
    x = x + jax.nn.softmax(scores, -1) @ (h @ parameters["value"])
    x = x + jax.nn.gelu(x @ parameters["up"]) @ parameters["down"]
    return x.mean(1) @ parameters["head"]


def loss_of(parameters, x, labels):
    logarithms = jax.nn.log_softmax(network(parameters, x))
    return -jnp.take_along_axis(logarithms, labels[:, None], 1).mean()


def main():
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    folder = HERE / "data" / "attention-jax"
    folder.mkdir(parents=True, exist_ok=True)
    keys = jax.random.split(jax.random.PRNGKey(0), 4)
    parameters = make_parameters(keys[0])
    model = jax2onnx.to_onnx(lambda x: network(parameters, x), inputs=[("batch", LENGTH, WIDTH)])
    for entries in (model.graph.node, model.graph.value_info, [model.graph], [model]):
        for entry in entries:  # where on the exporting machine the source lay
            entry.ClearField("metadata_props")
            entry.ClearField("doc_string")
    onnx.save(model, folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    inputs = [np.asarray(jax.random.normal(key, (rows, LENGTH, WIDTH)), np.float32) for key, rows in zip(keys[1:], (3, 5))]
    for number, x in enumerate(inputs):
        target = folder / f"test_data_set_{number}"
        target.mkdir(exist_ok=True)
        result, = session.run(None, {name: x})
        np.testing.assert_allclose(result, network(parameters, x), rtol=1e-4, atol=1e-5)
        for kind, array, of in (("input", x, name), ("output", result, session.get_outputs()[0].name)):
            (target / f"{kind}_0.pb").write_bytes(onnx.numpy_helper.from_array(array, of).SerializeToString())

    matches = {}  # initializer: parameter
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        same = [n for n, p in parameters.items() if p.shape == array.shape and np.array_equal(p, array)]
        if same:
            matches[tensor.name], = same
    assert sorted(matches.values()) == sorted(parameters), matches
    labels = np.asarray(jax.random.randint(keys[3], (3,), 0, CLASSES), np.int64)
    np.save(folder / "labels.npy", labels)
    goldens = Goldens(KEPT)
    for step in range(1, STEPS + 1):
        loss, gradients = jax.value_and_grad(loss_of)(parameters, inputs[0], labels)
        goldens.add(f"step{step}/loss", np.array([float(loss)]))
        for initializer, parameter in matches.items():
            goldens.add(f"step{step}/gradient of {initializer}", np.asarray(gradients[parameter]))
        parameters = {n: p - LEARNING_RATE * gradients[n] for n, p in parameters.items()}
    versions = [("jax", jax.__version__), ("onnx", onnx.__version__), ("onnxruntime", onnxruntime.__version__)]
    made_with = ", ".join(f"{module} {version}" for module, version in versions)
    safetensors.numpy.save_file(goldens.tensors, folder / "training.safetensors", {"made_with": made_with})
    print(f"attention-jax: {(folder / 'model.onnx').stat().st_size} bytes, input {name}")


if __name__ == "__main__":
    main()
