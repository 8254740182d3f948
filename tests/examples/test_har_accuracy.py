"""The demonstration's bar, on the real recordings: ten devices, one person each, tested on ten others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from alone import DEVICES, TEST_SUBJECTS
from flwr.app import Context
from har import client_app, server_app

from tests.examples.loopback import LoopbackGrid, Observer


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_people_together_recognise_92_percent_of_what_others_do(
    har_data: Path,
    run_config: Callable[..., dict[str, Any]],
    context: Callable[..., Context],
    observer: Observer,
) -> None:
    config = run_config("har", fraction_evaluate=0.0, test_data=str(har_data), test_subjects=TEST_SUBJECTS)
    contexts = {subject: context(subject, config, subject=subject, data=str(har_data)) for subject in DEVICES}
    server_app.app(LoopbackGrid(client_app.app, contexts), context(99, config))
    assert len(observer.accuracies) == 26
    assert fmean(observer.accuracies[-5:]) >= 0.92
