"""One person's sensor windows, as `prepare.py` writes them.

A window is 2.56 s of a phone worn at the waist: six axes (acceleration in g, rotation in rad/s) by 128 samples at
50 Hz, with one of six activities as its label.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ACTIVITIES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying")
AXES, SAMPLES = 6, 128
HELD_OUT = 5  # a device evaluates on the last fifth of each activity


class Windows(NamedTuple):
    """Sensor windows (n, 6, 128) as float32 and their activities (n,) as int64."""

    signals: Tensor
    labels: Tensor

    @property
    def size(self) -> int:
        """How many windows."""
        return len(self.labels)

    def part(self, chosen: Tensor) -> Windows:
        """The windows that an index or mask chooses."""
        return Windows(self.signals[chosen], self.labels[chosen])


class Person(NamedTuple):
    """What one person's device trains on, and what it holds out for local evaluation."""

    train: Windows
    held_out: Windows


@lru_cache(maxsize=2)
def load_person(data: str, subject: int) -> Person:
    """One person's windows, split; they stay in the worker's memory for the next round."""
    return split(load_windows(person_file(data, subject)))


@lru_cache(maxsize=1)
def load_people(data: str, subjects: str) -> Windows:
    """All windows of several people; `subjects` is such as "21-30" or "3,7,9"."""
    people = [load_windows(person_file(data, subject)) for subject in subject_numbers(subjects)]
    return Windows(torch.cat([person.signals for person in people]), torch.cat([person.labels for person in people]))


def person_file(data: str | Path, subject: int) -> Path:
    """The file of one person: `data` itself where it is a file, else `subject-NN.npz` in that folder.

    Raises FileNotFoundError, which says how to prepare the data.
    """
    path = Path(data)
    if path.is_dir():
        path /= f"subject-{subject:02d}.npz"
    if not data or not path.is_file():
        raise FileNotFoundError(f"no sensor data at '{path}': run `python prepare.py FOLDER` of this example first")
    return path


def load_windows(path: Path) -> Windows:
    """All windows of one person in the order they were recorded. Raises ValueError where the shapes are wrong."""
    with np.load(path, allow_pickle=False) as file:
        signals, labels = file["signals"], file["labels"]
    if signals.shape != (len(labels), AXES, SAMPLES):
        raise ValueError(f"{path} holds signals of shape {signals.shape}, not (windows, {AXES}, {SAMPLES})")
    return Windows(torch.from_numpy(signals.astype(np.float32)), torch.from_numpy(labels.astype(np.int64)))


def split(windows: Windows) -> Person:
    """Hold out the last fifth of each activity.

    Neighbouring windows overlap by half, so one window between the two parts is left out: no sample is in both.
    """
    train, held_out = [], []
    for activity in range(len(ACTIVITIES)):
        indices = torch.nonzero(windows.labels == activity).flatten()
        cut = len(indices) - len(indices) // HELD_OUT
        train.append(indices[: max(cut - 1, 0)])
        held_out.append(indices[cut:])
    return Person(windows.part(torch.cat(train)), windows.part(torch.cat(held_out)))


def subject_numbers(text: str) -> list[int]:
    """The people that "1-3,7" names: [1, 2, 3, 7]. Raises ValueError for anything else."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers
