"""Train the digits network and write it as ONNX, batch norm folded.

``pip install torch numpy onnx opencv-python-headless``, then
``python -m examples.digits.train --out digits_float.onnx --seed 1 --width 16`` (some minutes on two
cores). Only sources of the training split are shown; each epoch renders them anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from examples.digits.render import load_digits, render_frames, sources_of

EPOCHS = 30
RENDERS_PER_EPOCH = 10
BATCH = 64


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3 and pointwise 1x1, each with batch norm and ReLU (MobileNet, Howard 2017)."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def network(width: int) -> nn.Sequential:
    """Input ``[N, 1, 32, 32]``, output logits ``[N, 10]``; 15,002 parameters at width 16."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        *block(2 * width, 4 * width, 2),
        *block(4 * width, 4 * width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


def train(width: int, seed: int) -> nn.Sequential:
    """Adam with a one-cycle schedule; prints the loss of every fifth epoch."""
    torch.manual_seed(seed)
    torch.set_num_threads(2)
    model = network(width)
    sources = np.repeat(sources_of("train"), RENDERS_PER_EPOCH)
    labels = torch.from_numpy(load_digits().labels[sources])
    steps = EPOCHS * -(-len(sources) // BATCH)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(EPOCHS):
        render_ids = epoch * RENDERS_PER_EPOCH + np.tile(
            np.arange(RENDERS_PER_EPOCH), len(sources) // RENDERS_PER_EPOCH
        )
        frames = render_frames(sources, seed=100 + seed, render_ids=render_ids)
        inputs = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        model.train()
        total = 0.0
        for rows in torch.randperm(len(inputs)).split(BATCH):
            optimiser.zero_grad()
            loss = loss_of(model(inputs[rows]), labels[rows])
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        if epoch % 5 == 4:
            print(f"epoch {epoch + 1}: loss {total / len(inputs):.3f}", flush=True)
    return model.eval()


def to_onnx(model: nn.Sequential) -> onnx.ModelProto:
    """The network as an ONNX graph (opset 17) that ends in Softmax."""
    nodes, weights = [], []
    name = "frame"

    def add(op: str, *tensors: np.ndarray, **attributes: object) -> None:
        nonlocal name
        inputs = [name]
        for tensor in tensors:
            inputs.append(f"w{len(weights)}")
            weights.append(numpy_helper.from_array(tensor.astype(np.float32), inputs[-1]))
        name = f"t{len(nodes)}"
        nodes.append(
            helper.make_node(op, inputs, [name], name=f"{op.lower()}_{len(nodes)}", **attributes)
        )

    layers = list(model)
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            weight, bias = folded(layer, layers[index + 1])
            pad = layer.padding[0]
            add(
                "Conv",
                weight,
                bias,
                strides=list(layer.stride),
                pads=[pad] * 4,
                group=layer.groups,
                kernel_shape=list(layer.kernel_size),
            )
        elif isinstance(layer, nn.ReLU):
            add("Relu")
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            add("GlobalAveragePool")
        elif isinstance(layer, nn.Flatten):
            add("Flatten", axis=1)
        elif isinstance(layer, nn.Linear):
            add("Gemm", layer.weight.detach().numpy(), layer.bias.detach().numpy(), transB=1)
    nodes.append(helper.make_node("Softmax", [name], ["scores"], name="softmax", axis=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, ["N", 1, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    exported = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    exported.ir_version = 8
    onnx.checker.check_model(exported, full_check=True)
    return exported


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a convolution with its batch norm folded in."""
    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
    weight = conv.weight.detach() * scale[:, None, None, None]
    bias = (norm.bias - norm.running_mean * scale).detach()
    return weight.numpy(), bias.numpy()


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=16)
    arguments = parser.parse_args()
    model = train(arguments.width, arguments.seed)
    arguments.out.write_bytes(to_onnx(model).SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
