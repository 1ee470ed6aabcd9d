"""Fine-tune the digits network for a darker scene, and write it as ONNX: the updates that
``benchmarks/delta.py`` measures deltas on.

``pip install torch numpy onnx opencv-python-headless``, then
``python -m examples.digits.fine_tune --out digits_float_tuned.onnx`` for all layers, or
``… --last-layer --out digits_float_last.onnx`` for the classifier alone (seconds on two cores).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from examples.digits.corruptions import apply_corruption
from examples.digits.render import load_digits, render_frames, sources_of

HERE = Path(__file__).parent
STEPS = 60
BATCH = 64
RATE = {"all": 1e-5, "last": 1e-3}
"""Of Adam: small steps, as one takes them from a network that is right almost always."""


class Graph(nn.Module):
    """The ONNX graph of ``train.py`` with its initialisers as parameters."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._nodes = list(model.graph.node)
        self.weights = nn.ParameterDict(
            {
                item.name: nn.Parameter(torch.from_numpy(numpy_helper.to_array(item).copy()))
                for item in model.graph.initializer
            }
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits of ``[N, 1, 32, 32]`` (what goes into the Softmax)."""
        x = frames
        for node in self._nodes:
            own = [self.weights[name] for name in node.input[1:]]
            facts = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            if node.op_type == "Conv":
                x = nn.functional.conv2d(
                    x, *own, stride=facts["strides"], padding=facts["pads"][0],
                    groups=facts["group"],
                )  # fmt: skip
            elif node.op_type == "Relu":
                x = nn.functional.relu(x)
            elif node.op_type == "GlobalAveragePool":
                x = x.mean((2, 3), keepdim=True)
            elif node.op_type == "Flatten":
                x = x.flatten(1)
            elif node.op_type == "Gemm":
                x = nn.functional.linear(x, *own)
        return x


def fine_tune(model: onnx.ModelProto, layers: str, seed: int) -> onnx.ModelProto:
    """The same graph with new weights.

    Args:
        model: of ``train.py``.
        layers: ``all``, or ``last`` for the classifier alone.
        seed: of the batches and of the renderings.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    graph = Graph(model)
    classifier = next(node for node in model.graph.node if node.op_type == "Gemm")
    names = list(graph.weights) if layers == "all" else list(classifier.input[1:])
    trained = [graph.weights[name] for name in names]
    optimiser = torch.optim.Adam(trained, lr=RATE[layers])
    sources = sources_of("train")
    labels = load_digits().labels
    for step in range(STEPS):
        batch = rng.choice(sources, BATCH)
        frames = render_frames(batch, seed=1000 + seed, render_ids=np.full(BATCH, step))
        for frame in frames[::2]:
            frame[:] = apply_corruption(frame, "dark", int(rng.integers(1, 4)), rng)
        inputs = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        loss = nn.functional.cross_entropy(graph(inputs), torch.from_numpy(labels[batch]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 20 == 19:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    tuned = onnx.ModelProto()
    tuned.CopyFrom(model)
    for item in tuned.graph.initializer:
        value = graph.weights[item.name].detach().numpy()
        item.CopyFrom(numpy_helper.from_array(value, item.name))
    return tuned


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, default=HERE / "digits_float.onnx")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--last-layer", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    layers = "last" if arguments.last_layer else "all"
    tuned = fine_tune(onnx.load(arguments.model), layers, arguments.seed)
    arguments.out.write_bytes(tuned.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
