"""Published networks as workloads, to check targets against published figures.

Only what a cost depends on: shapes, kernels, strides, groups and the tensor graph.
Kernels have no bias unless a builder is told so.
"""

from __future__ import annotations

import math

from matar_tf.policy import Policy
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload

__all__ = [
    "NetworkBuilder",
    "autoencoder",
    "ds_cnn",
    "inception_v1",
    "inception_v4",
    "mobilenet_v1",
    "mobilenet_v2",
    "resnet8",
    "uniform_policy",
]


class NetworkBuilder:
    """Adds layers one by one; each method returns the name of the tensor it makes.

    Args:
      shape: Shape of the network's input, channels last.
      bias: Whether layers with a kernel have a bias.
    """

    def __init__(self, shape: tuple[int, ...], *, bias: bool = False) -> None:
        self._bias = bias
        self._layers: list[LayerWorkload] = []
        self._tensors: dict[str, TensorWorkload] = {}
        self.input = self.add_tensor("input", shape)

    def add_tensor(self, name: str, shape: tuple[int, ...]) -> str:
        """Adds a tensor with an entry of its own."""
        self._tensors[name] = TensorWorkload(name=name, shape=shape, activation=name)
        return name

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        return self._tensors[tensor].shape

    def conv(
        self,
        source: str,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        *,
        strides: int = 1,
        valid: bool = False,
        name: str | None = None,
    ) -> str:
        """A convolution with padding "same", or "valid"."""
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        height, width, depth = self.shape(source)
        shape = (*_output_size((height, width), kernel, strides, valid=valid), channels)
        weight_elems = math.prod(kernel) * depth * channels
        return self._add(
            OpKind.CONV,
            (source,),
            shape,
            name=name,
            macs=shape[0] * shape[1] * weight_elems,
            weight_elems=weight_elems,
            kernel_size=kernel,
            strides=(strides, strides),
        )

    def depthwise(self, source: str, kernel: int = 3, *, strides: int = 1) -> str:
        """A depthwise convolution with padding "same"."""
        height, width, depth = self.shape(source)
        window = (kernel, kernel)
        shape = (*_output_size((height, width), window, strides, valid=False), depth)
        weight_elems = kernel * kernel * depth
        return self._add(
            OpKind.DEPTHWISE_CONV,
            (source,),
            shape,
            macs=shape[0] * shape[1] * weight_elems,
            weight_elems=weight_elems,
            kernel_size=window,
            strides=(strides, strides),
            groups=depth,
        )

    def dense(self, source: str, channels: int, *, name: str | None = None) -> str:
        """A dense layer on all elements of a tensor."""
        weight_elems = math.prod(self.shape(source)) * channels
        return self._add(
            OpKind.DENSE,
            (source,),
            (channels,),
            name=name,
            macs=weight_elems,
            weight_elems=weight_elems,
        )

    def add(self, *sources: str) -> str:
        """The sum of tensors of one shape."""
        return self._add(OpKind.ADD, sources, self.shape(sources[0]))

    def concat(self, *sources: str) -> str:
        """Channels of several tensors, one after the other."""
        depth = sum(self.shape(source)[-1] for source in sources)
        return self._add(OpKind.CONCAT, sources, (*self.shape(sources[0])[:-1], depth))

    def pool(
        self,
        source: str,
        window: int,
        *,
        strides: int | None = None,
        valid: bool = True,
        kind: OpKind = OpKind.MAX_POOL,
    ) -> str:
        """A pooling layer."""
        height, width, depth = self.shape(source)
        strides = window if strides is None else strides
        size = _output_size((height, width), (window, window), strides, valid=valid)
        return self._add(
            kind,
            (source,),
            (*size, depth),
            kernel_size=(window, window),
            strides=(strides, strides),
        )

    def mean(self, source: str) -> str:
        """The mean over all pixels."""
        return self._add(OpKind.MEAN, (source,), self.shape(source)[-1:])

    def softmax(self, source: str) -> str:
        """A softmax over the last axis."""
        return self._add(OpKind.SOFTMAX, (source,), self.shape(source))

    def build(self, *outputs: str) -> Workload:
        """Returns the network; its outputs default to the last tensor."""
        return Workload(
            layers=tuple(self._layers),
            tensors=self._tensors,
            inputs=(self.input,),
            outputs=outputs or (self._layers[-1].output,),
        )

    def _add(
        self,
        kind: OpKind,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        *,
        name: str | None = None,
        **figures: object,
    ) -> str:
        name = name or f"{kind.value}_{len(self._layers)}"
        fields: dict[str, object] = dict(figures)
        if "weight_elems" in fields:
            fields["weights"] = name
            fields["bias_elems"] = shape[-1] if self._bias else 0
        self._layers.append(
            LayerWorkload(name=name, kind=kind, inputs=inputs, output=name, **fields)  # type: ignore[arg-type]
        )
        return self.add_tensor(name, shape)


def _output_size(
    size: tuple[int, int], kernel: tuple[int, int], strides: int, *, valid: bool
) -> tuple[int, int]:
    lost = (kernel[0] - 1, kernel[1] - 1) if valid else (0, 0)
    height, width = (size[axis] - lost[axis] for axis in (0, 1))
    return -(-height // strides), -(-width // strides)


def uniform_policy(
    workload: Workload, weight_bits: int, activation_bits: int
) -> Policy:
    """Returns the policy with one width for all weights and one for all tensors."""
    return Policy(
        weights={one.weights: weight_bits for one in workload.layers if one.weights},
        activations={
            one.activation: activation_bits
            for one in workload.tensors.values()
            if one.activation
        },
    )


def resnet8() -> Workload:
    """MLPerf Tiny image classification, 32 x 32 x 3, 12.5 million MACs."""
    net = NetworkBuilder((32, 32, 3), bias=True)
    x = net.conv(net.input, 16, 3)
    for channels, strides in ((16, 1), (32, 2), (64, 2)):
        y = net.conv(net.conv(x, channels, 3, strides=strides), channels, 3)
        x = net.conv(x, channels, strides=strides) if strides > 1 else x
        x = net.add(x, y)
    net.softmax(net.dense(net.mean(x), 10))
    return net.build()


def ds_cnn() -> Workload:
    """MLPerf Tiny keyword spotting, 49 x 10 features, 2.7 million MACs."""
    net = NetworkBuilder((49, 10, 1), bias=True)
    x = net.conv(net.input, 64, (10, 4), strides=2)
    for _ in range(4):
        x = net.conv(net.depthwise(x), 64)
    net.softmax(net.dense(net.mean(x), 12))
    return net.build()


def mobilenet_v1(size: int, width: float, num_classes: int) -> Workload:
    """MobileNet v1 (Howard et al., 2017); 96, 0.25, 2 is MLPerf Tiny's."""
    net = NetworkBuilder((size, size, 3), bias=True)
    x = net.conv(net.input, int(32 * width), 3, strides=2)
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    blocks += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    for channels, strides in blocks:
        x = net.conv(net.depthwise(x, strides=strides), int(channels * width))
    net.softmax(net.dense(net.mean(x), num_classes))
    return net.build()


def autoencoder() -> Workload:
    """MLPerf Tiny anomaly detection: ten dense layers on 640 features."""
    net = NetworkBuilder((640,), bias=True)
    x = net.input
    for channels in (128, 128, 128, 128, 8, 128, 128, 128, 128, 640):
        x = net.dense(x, channels)
    return net.build()


def mobilenet_v2(num_classes: int, *, bias: bool = True) -> Workload:
    """MobileNet v2 (Sandler et al., 2018) on 224 x 224 x 3: 53 layers with kernels."""
    net = NetworkBuilder((224, 224, 3), bias=bias)
    x = net.conv(net.input, 32, 3, strides=2)
    for expansion, channels, repeats, first_strides in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(repeats):
            strides = 1 if index else first_strides
            depth = net.shape(x)[-1]
            y = net.conv(x, depth * expansion) if expansion > 1 else x
            y = net.conv(net.depthwise(y, strides=strides), channels)
            x = net.add(x, y) if index else y
    x = net.conv(x, 1280)
    net.dense(net.mean(x), num_classes)
    return net.build()


def inception_v1(num_classes: int) -> Workload:
    """Inception v1, GoogLeNet (Szegedy et al., 2015) on 224 x 224 x 3."""
    net = NetworkBuilder((224, 224, 3), bias=True)
    x = net.conv(net.input, 64, 7, strides=2)
    x = net.pool(x, 3, strides=2, valid=False)
    x = net.conv(net.conv(x, 64), 192, 3)
    for stage in (
        ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
        (
            (192, 96, 208, 16, 48, 64),
            (160, 112, 224, 24, 64, 64),
            (128, 128, 256, 24, 64, 64),
            (112, 144, 288, 32, 64, 64),
            (256, 160, 320, 32, 128, 128),
        ),
        ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
    ):
        x = net.pool(x, 3, strides=2, valid=False)
        for single, reduce_1, branch_1, reduce_2, branch_2, pooled in stage:
            x = net.concat(
                net.conv(x, single),
                net.conv(net.conv(x, reduce_1), branch_1, 3),
                # TensorFlow's version has 3x3 here, the paper 5x5.
                net.conv(net.conv(x, reduce_2), branch_2, 3),
                net.conv(net.pool(x, 3, strides=1, valid=False), pooled),
            )
    net.softmax(net.dense(net.mean(x), num_classes))
    return net.build()


def inception_v4(num_classes: int) -> Workload:
    """Inception v4 (Szegedy et al., 2017) on 299 x 299 x 3."""
    net = NetworkBuilder((299, 299, 3), bias=True)
    x = net.conv(net.input, 32, 3, strides=2, valid=True)
    x = net.conv(net.conv(x, 32, 3, valid=True), 64, 3)
    x = net.concat(net.pool(x, 3, strides=2), net.conv(x, 96, 3, strides=2, valid=True))
    y = net.conv(net.conv(net.conv(x, 64), 64, (1, 7)), 64, (7, 1))
    x = net.concat(
        net.conv(net.conv(x, 64), 96, 3, valid=True), net.conv(y, 96, 3, valid=True)
    )
    x = net.concat(
        net.conv(x, 192, 3, strides=2, valid=True), net.pool(x, 3, strides=2)
    )
    for _ in range(4):
        x = _inception_a(net, x)
    y = net.conv(net.conv(x, 192), 224, 3)
    x = net.concat(
        net.conv(x, 384, 3, strides=2, valid=True),
        net.conv(y, 256, 3, strides=2, valid=True),
        net.pool(x, 3, strides=2),
    )
    for _ in range(7):
        x = _inception_b(net, x)
    y = net.conv(net.conv(net.conv(x, 256), 256, (1, 7)), 320, (7, 1))
    x = net.concat(
        net.conv(net.conv(x, 192), 192, 3, strides=2, valid=True),
        net.conv(y, 320, 3, strides=2, valid=True),
        net.pool(x, 3, strides=2),
    )
    for _ in range(3):
        x = _inception_c(net, x)
    net.softmax(net.dense(net.mean(x), num_classes))
    return net.build()


def _averaged(net: NetworkBuilder, source: str, channels: int) -> str:
    pooled = net.pool(source, 3, strides=1, valid=False, kind=OpKind.AVERAGE_POOL)
    return net.conv(pooled, channels)


def _inception_a(net: NetworkBuilder, x: str) -> str:
    return net.concat(
        net.conv(x, 96),
        net.conv(net.conv(x, 64), 96, 3),
        net.conv(net.conv(net.conv(x, 64), 96, 3), 96, 3),
        _averaged(net, x, 96),
    )


def _inception_b(net: NetworkBuilder, x: str) -> str:
    y = net.conv(net.conv(net.conv(x, 192), 224, (1, 7)), 256, (7, 1))
    z = net.conv(net.conv(net.conv(x, 192), 192, (7, 1)), 224, (1, 7))
    z = net.conv(net.conv(z, 224, (7, 1)), 256, (1, 7))
    return net.concat(net.conv(x, 384), y, z, _averaged(net, x, 128))


def _inception_c(net: NetworkBuilder, x: str) -> str:
    y = net.conv(x, 384)
    z = net.conv(net.conv(net.conv(x, 384), 448, (1, 3)), 512, (3, 1))
    return net.concat(
        net.conv(x, 256),
        net.conv(y, 256, (1, 3)),
        net.conv(y, 256, (3, 1)),
        net.conv(z, 256, (1, 3)),
        net.conv(z, 256, (3, 1)),
        _averaged(net, x, 256),
    )
