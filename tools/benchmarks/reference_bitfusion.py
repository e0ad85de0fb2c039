"""The networks of Bit Fusion's benchmarks, as workloads with the widths of each layer.

Reference:
  hsharma35/bitfusion, bitfusion/src/benchmarks/benchmarks.py. AlexNet and ResNet-18 are
  the versions of double width after WRPN; other networks have 1 bit (SVHN) or 2 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matar_tf.workload import Workload
from tools.benchmarks.reference_networks import NetworkBuilder

__all__ = ["BATCH_SIZE", "PUBLISHED_CYCLES", "QuantizedNetwork", "bitfusion_networks"]

BATCH_SIZE = 16

# Sums over the layers of results/bitfusion-eyeriss-sim-sweep.csv at 16 x 32 units and
# 192 bits a cycle.
PUBLISHED_CYCLES: Mapping[str, int] = {
    "AlexNet": 37_666_491,
    "SVHN": 1_317_523,
    "CIFAR10": 3_293_704,
    "LeNet-5": 410_352,
    "VGG-7": 2_822_491,
    "RESNET-18": 49_079_982,
    "RNN": 394_583,
    "LSTM": 337_175,
}


@dataclass(frozen=True, kw_only=True)
class QuantizedNetwork:
    """A network with the widths of its layers.

    Attributes:
      workload: The network.
      widths: Bits of weights and of inputs of each layer with a kernel.
    """

    workload: Workload
    widths: Mapping[str, tuple[int, int]]


class _Builder(NetworkBuilder):
    """Remembers the widths that layers are given."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.widths: dict[str, tuple[int, int]] = {}

    def wide_conv(
        self,
        source: str,
        name: str,
        channels: int,
        kernel: int,
        widths: tuple[int, int],
        *,
        strides: int = 1,
        valid: bool = False,
    ) -> str:
        self.widths[name] = widths
        return self.conv(
            source, channels, kernel, strides=strides, valid=valid, name=name
        )

    def wide_dense(
        self, source: str, name: str, channels: int, widths: tuple[int, int]
    ) -> str:
        self.widths[name] = widths
        return self.dense(source, channels, name=name)

    def finish(self) -> QuantizedNetwork:
        return QuantizedNetwork(workload=self.build(), widths=self.widths)


def bitfusion_networks() -> dict[str, QuantizedNetwork]:
    """Returns the networks by the names of the published table."""
    return {
        "AlexNet": _alexnet(),
        "SVHN": _vgg(64, "conv", first=(1, 8), rest=(1, 1)),
        "CIFAR10": _vgg(128, "conv", first=(8, 8), rest=(2, 2)),
        "LeNet-5": _lenet5(),
        "VGG-7": _vgg7(),
        "RESNET-18": _resnet18(),
        "RNN": _one_matrix(4096),
        "LSTM": _one_matrix(3600),
    }


def _alexnet() -> QuantizedNetwork:
    net = _Builder((227, 227, 3))
    first, rest = (8, 8), (4, 4)
    branches: dict[str, str] = {}
    for branch in ("a", "b"):
        x = net.wide_conv(
            net.input, f"conv1_{branch}", 96, 11, first, strides=4, valid=True
        )
        x = net.wide_conv(net.pool(x, 2), f"conv2_{branch}", 256, 5, rest)
        branches[branch] = net.pool(x, 2)
    both = net.concat(*branches.values())
    for branch in ("a", "b"):
        x = net.wide_conv(both, f"conv3_{branch}", 384, 3, rest)
        x = net.wide_conv(x, f"conv4_{branch}", 384, 3, rest)
        x = net.wide_conv(x, f"conv5_{branch}", 256, 3, rest)
        branches[branch] = net.pool(x, 2)
    x = net.wide_dense(net.concat(*branches.values()), "fc1", 8192, rest)
    x = net.wide_dense(x, "fc2", 8192, rest)
    net.wide_dense(x, "fc3", 1000, first)
    return net.finish()


def _vgg(
    channels: int, name: str, *, first: tuple[int, int], rest: tuple[int, int]
) -> QuantizedNetwork:
    """Six convolutions, pooled after every second one, and three dense layers."""
    net = _Builder((32, 32, 3))
    x = net.input
    for index in range(6):
        widths = rest if index else first
        x = net.wide_conv(x, f"{name}{index}", channels << (index // 2), 3, widths)
        x = net.pool(x, 2) if index % 2 else x
    x = net.wide_dense(x, "fc6", 1024, rest)
    x = net.wide_dense(x, "fc7", 1024, rest)
    net.wide_dense(x, "fc8", 10, rest)
    return net.finish()


def _lenet5() -> QuantizedNetwork:
    net = _Builder((32, 32, 1))
    x = net.pool(net.wide_conv(net.input, "conv0", 32, 5, (2, 2)), 2)
    x = net.pool(net.wide_conv(x, "conv1", 64, 5, (2, 2)), 2)
    net.wide_dense(net.wide_dense(x, "fc1", 512, (2, 2)), "fc2", 10, (2, 2))
    return net.finish()


def _vgg7() -> QuantizedNetwork:
    net = _Builder((32, 32, 3))
    branches: list[str] = []
    for branch in ("a", "b"):
        x = net.input
        for index, channels in enumerate((128, 256, 512), start=1):
            x = net.wide_conv(x, f"conv{index}_{branch}", channels, 3, (2, 2))
            x = net.pool(x, 2)
        branches.append(x)
    net.wide_dense(net.add(*branches), "fc1", 1024, (2, 2))
    return net.finish()


def _resnet18() -> QuantizedNetwork:
    net = _Builder((224, 224, 3))
    x = net.wide_conv(net.input, "conv1_a", 128, 7, (8, 8), strides=2)
    x = net.pool(x, 2)
    for module, channels in zip(range(2, 6), (128, 256, 512, 1024), strict=True):
        for index in (1, 2):
            strides = 2 if index == 1 and module > 2 else 1
            prefix = f"module{module}/conv{module}_{index}"
            first = net.wide_conv(
                x, f"{prefix}_a", channels, 1, (4, 4), strides=strides
            )
            x = net.wide_conv(first, f"{prefix}_b", channels, 3, (4, 4))
        x = net.add(first, x)
    return net.finish()


def _one_matrix(size: int) -> QuantizedNetwork:
    net = _Builder((size,))
    net.wide_dense(net.input, "matmul", size, (4, 4))
    return net.finish()
