"""A CNN of MobileNetV2's size and form (Sandler et al., CVPR 2018, table 2), with 3.5 million random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# expansion, channels, repeats, stride of the first
_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
SHAPE, CLASSES = (3, 224, 224), 1000


def _layer(inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU6()]


class _Block(nn.Module):
    """An inverted residual."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        widened = _layer(inputs, hidden) if expansion > 1 else []
        spatial = _layer(hidden, hidden, kernel=3, stride=stride, groups=hidden)
        narrowed = _layer(hidden, outputs)[:2]
        self._layers = nn.Sequential(*widened, *spatial, *narrowed)
        self._adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        y: Tensor = self._layers(x)
        return x + y if self._adds else y


def mobilenet(seed: int = 1) -> nn.Module:
    """Return the network, in evaluation mode."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = _layer(3, 32, kernel=3, stride=2)
    channels = 32
    for expansion, outputs, repeats, first in _BLOCKS:
        for number in range(repeats):
            layers.append(_Block(channels, outputs, first if number == 0 else 1, expansion))
            channels = outputs
    layers += [*_layer(channels, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, CLASSES)]
    return nn.Sequential(*layers).eval()
