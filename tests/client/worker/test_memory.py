"""A worker holds the app's own arrays and little else: messages come from and go to the disk."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from tests.client.worker.bench import Bench

MODEL = 40_000_000
"""Bytes; the bar (3.5 times a model of 100 MB, interpreter and supervisor included) is the benchmark's."""


def test_a_worker_peaks_at_the_apps_arrays_and_its_reply_and_gives_both_back(bench: Bench) -> None:
    bench.app("""
    @app.train()
    def train(message, context):
        arrays = message.content["arrays"].to_numpy_ndarrays()
        arrays = [a - np.float32(0.1) for a in arrays]
        return Message(RecordDict({"arrays": ArrayRecord(arrays)}), reply_to=message)

    @app.query()
    def query(message, context):
        return Message(RecordDict({}), reply_to=message)
    """)
    bench.result(bench.instruction(RecordDict({"arrays": ArrayRecord([])}), "query"))
    empty = bench.host.rss()
    content = RecordDict({"arrays": ArrayRecord([np.ones(MODEL // 40, dtype=np.float32) for _ in range(10)])})
    for _ in range(2):
        result = bench.result(bench.instruction(content))
        assert result.peak_rss - empty < 2.5 * MODEL
    bench.result(bench.instruction(RecordDict({"arrays": ArrayRecord([])}), "query"))
    assert bench.host.rss() - empty < 0.5 * MODEL
