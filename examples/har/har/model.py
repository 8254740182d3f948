"""A small 1-D convolutional network with batch normalisation (37 k parameters, 150 kB); how to train and test it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from har.data import ACTIVITIES, AXES, Windows

TEST_BATCH = 512


class Score(NamedTuple):
    """Mean cross-entropy and the share of windows recognised."""

    loss: float
    accuracy: float


class Net(nn.Module):
    """(n, 6, 128) sensor windows in, (n, 6) activity scores (logits) out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *block(AXES, 32, width=7),
            nn.MaxPool1d(2),
            *block(32, 64, width=5),
            nn.MaxPool1d(2),
            *block(64, 128, width=3),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(128, len(ACTIVITIES)),
        )

    def forward(self, signals: Tensor) -> Tensor:
        """Activity scores of each window."""
        scores: Tensor = self.layers(signals)
        return scores


def block(inputs: int, outputs: int, *, width: int) -> tuple[nn.Module, ...]:
    """Convolution, batch normalisation, activation."""
    convolution = nn.Conv1d(inputs, outputs, width, padding=width // 2, bias=False)
    return convolution, nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)


def train(
    net: nn.Module,
    windows: Windows,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    turn_degrees: float,
    generator: torch.Generator,
) -> Score:
    """Train in place by SGD with momentum; the score over the last epoch, as it went.

    Each window is seen as if the phone sat at another place of the belt: turned by up to `turn_degrees` either way.
    """
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    loss_sum = correct = 0.0
    seen = 0
    for _ in range(epochs):
        loss_sum, correct, seen = 0.0, 0.0, 0
        for chosen in torch.split(torch.randperm(windows.size, generator=generator), batch_size):
            if len(chosen) < 2:  # one window has no variance to normalise a batch by
                continue
            signals, labels = windows.part(chosen)
            optimizer.zero_grad()
            scores = net(turned(signals, turn_degrees, generator))
            loss = functional.cross_entropy(scores, labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            optimizer.step()
            loss_sum += loss.item() * len(chosen)
            correct += (scores.argmax(1) == labels).sum().item()
            seen += len(chosen)
    return Score(loss_sum / max(seen, 1), correct / max(seen, 1))


def turned(signals: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """The windows, each turned about the body's upright axis (x) by a random angle within ± `degrees`."""
    angles = (2 * torch.rand(len(signals), generator=generator) - 1) * math.radians(degrees)
    cosine, sine = angles.cos()[:, None, None], angles.sin()[:, None, None]
    x, y, z = signals.reshape(len(signals), 2, 3, -1).unbind(2)  # acceleration and rotation turn alike
    return torch.stack([x, cosine * y - sine * z, sine * y + cosine * z], 2).reshape(signals.shape)


@torch.inference_mode()
def test(net: nn.Module, windows: Windows) -> Score:
    """The score on windows that the network was not trained on."""
    net.eval()
    loss = correct = 0.0
    for signals, labels in zip(
        torch.split(windows.signals, TEST_BATCH), torch.split(windows.labels, TEST_BATCH), strict=True
    ):
        scores = net(signals)
        loss += functional.cross_entropy(scores, labels, reduction="sum").item()
        correct += (scores.argmax(1) == labels).sum().item()
    return Score(loss / windows.size, correct / windows.size)
