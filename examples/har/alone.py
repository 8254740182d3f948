"""The baseline: what each person's device reaches by itself, with the same network, schedule and length of training."""

from __future__ import annotations

import signal
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import TimeoutError as MultiprocessingTimeout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

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
    tell: Callable[[int, float], None] = lambda _subject, _accuracy: None,
) -> dict[int, float]:
    """What each person's device reaches by itself: subject → accuracy on the unseen people.

    Each trains the same network on the same windows with the same schedule as in the federation, as long as all its
    rounds together; `config` overrides the app's run configuration; `tell` hears of each as it is done, in order.
    Raises TimeoutError after `limit_s` seconds.
    """
    settings = {**app_config(), **(config or {})}
    jobs = [(str(data), subject, test_subjects, settings) for subject in subjects]
    # A fresh interpreter for each process: torch's threads do not survive a fork.
    # Leaving the pool ends its processes, also after Ctrl-C, which is for this process to hear.
    with get_context("spawn").Pool(min(processes, len(jobs)), signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        reached: dict[int, float] = {}
        ends, results = time.monotonic() + limit_s, pool.imap(alone_job, jobs)
        for subject in subjects:
            try:
                reached[subject] = results.next(max(0.0, ends - time.monotonic()))
            except MultiprocessingTimeout:
                raise TimeoutError(f"training {len(jobs)} devices alone took longer than {limit_s:.0f} s") from None
            tell(subject, reached[subject])
    return reached


def alone_job(job: tuple[str, int, str, dict[str, Any]]) -> float:
    """Train on one person's windows only; the accuracy on the unseen people."""
    import torch  # noqa: PLC0415  # only the processes that train need torch
    from har.data import load_people, load_person  # noqa: PLC0415  # likewise
    from har.model import Net, test, train  # noqa: PLC0415  # likewise

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
