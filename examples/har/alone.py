"""The baseline: what each person's device reaches by itself, with the same network, schedule and length of training."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from har.data import load_people, load_person
from har.model import Net, test, train

DEVICES = tuple(range(1, 11))
"""The people whose devices train: the first ten."""
TEST_SUBJECTS = "21-30"
"""The people on whom all is tested: the last ten. The ten between served to choose the settings."""
LIMIT_S = 600.0


def alone_accuracy(
    data: str | Path,
    subjects: Sequence[int] = DEVICES,
    *,
    test_subjects: str = TEST_SUBJECTS,
    config: Mapping[str, Any] | None = None,
    processes: int = 2,
    limit_s: float = LIMIT_S,
) -> dict[int, float]:
    """What each person's device reaches by itself: subject → accuracy on the unseen people.

    Each trains the same network on the same windows with the same schedule as in the federation, as long as all its
    rounds together; `config` overrides the app's run configuration. Raises TimeoutError after `limit_s` seconds.
    """
    settings = {**app_config(), **(config or {})}
    jobs = [(str(data), subject, test_subjects, settings) for subject in subjects]
    # A fresh interpreter for each process: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(max_workers=min(processes, len(jobs)), mp_context=get_context("spawn"))
    try:
        return dict(zip(subjects, pool.map(alone_job, jobs, timeout=limit_s), strict=True))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def alone_job(job: tuple[str, int, str, dict[str, Any]]) -> float:
    """Train on one person's windows only; the accuracy on the unseen people."""
    data, subject, test_subjects, config = job
    torch.set_num_threads(1)
    torch.manual_seed(int(config["seed"]))
    net, generator = Net(), torch.Generator().manual_seed(int(config["seed"]) * 1000 + subject)
    for server_round in range(int(config["num-server-rounds"])):
        train(
            net,
            load_person(data, subject).train,
            epochs=int(config["local-epochs"]),
            lr=float(config["lr"]) * float(config["lr-decay"]) ** server_round,
            batch_size=int(config["batch-size"]),
            turn_degrees=float(config["turn-degrees"]),
            generator=generator,
        )
    return test(net, load_people(data, test_subjects)).accuracy


def app_config() -> dict[str, Any]:
    """The app's run configuration, as `pyproject.toml` states it."""
    text = Path(__file__).with_name("pyproject.toml").read_text()
    settings: dict[str, Any] = tomllib.loads(text)["tool"]["flwr"]["app"]["config"]
    return settings
