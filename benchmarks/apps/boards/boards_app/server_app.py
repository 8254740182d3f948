"""Plain FedAvg, tested after each round on people whom no device has; each test leaves a mark in a file.

A mark is one JSON line: `{"at", "round", "accuracy", "loss"}`, `at` in seconds of CLOCK_MONOTONIC, which all processes
of one machine share; round 0 is the model before any training.
"""

from __future__ import annotations

import json
import random
import time
from logging import INFO
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from boards_app.data import load_people
from boards_app.model import initial, test

ROLL_CALL_S = 120.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for `num-server-rounds` rounds; who wants fewer stops the run."""
    config = context.run_config
    devices, seed = int(config["min-devices"]), int(config["seed"])
    windows = load_people(str(config["test-data"]), str(config["test-subjects"]))
    marks = str(config["marks"])

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        score = test(arrays.to_numpy_ndarrays(), windows)
        if marks:
            mark = {"at": time.monotonic(), "round": server_round, "accuracy": score.accuracy, "loss": score.loss}
            with Path(marks).open("a") as stream:
                stream.write(json.dumps(mark) + "\n")
        return MetricRecord({"loss": score.loss, "accuracy": score.accuracy, "num-examples": windows.size})

    random.seed(seed)  # Flower draws the devices of a round from it
    if config["roll-call"]:
        roll_call(grid, devices)
    strategy = FedAvg(
        fraction_train=float(config["fraction-train"]),
        fraction_evaluate=float(config["fraction-evaluate"]),
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=devices,
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(initial(seed)),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )


def roll_call(grid: Grid, devices: int) -> None:
    """Ask every device for its number of windows. Raises TimeoutError where too few are there, or answer."""
    end = time.monotonic() + ROLL_CALL_S
    while len(nodes := list(grid.get_node_ids())) < devices:
        if time.monotonic() > end:
            raise TimeoutError(f"fewer than {devices} devices came within {ROLL_CALL_S:.0f} s")
        time.sleep(0.2)
    question = RecordDict({"config": ConfigRecord()})
    messages = [Message(question, dst_node_id=node, message_type="query") for node in nodes]
    replies = [reply for reply in grid.send_and_receive(messages, timeout=ROLL_CALL_S) if not reply.has_error()]
    if len(replies) < devices:
        raise TimeoutError(f"{len(replies)} of {devices} devices answered the roll call")
    log(INFO, "%s devices are ready", len(replies))
