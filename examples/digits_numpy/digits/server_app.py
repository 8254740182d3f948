"""The coordinator's half: ask the devices what they have, train, then ask what they remember.

With `fraction-train = 0.0` the run only evaluates.
"""

from __future__ import annotations

import time
from logging import INFO

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digits.data import test_pictures
from digits.model import initial, test

QUERY_LIMIT_S = 60.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Query, `num-server-rounds` rounds of federated averaging, query."""
    config = context.run_config
    devices = int(config["min-devices"])
    wait_for_devices(grid, devices, float(config["wait-for-devices-s"]))
    for node, content in ask(grid, "query").items():
        log(INFO, "device %s has %s pictures", node, content.metric_records["shares"]["num-examples"])

    fraction_train, fraction_evaluate = float(config["fraction-train"]), float(config["fraction-evaluate"])
    strategy = FedAvg(
        fraction_train=fraction_train,
        fraction_evaluate=fraction_evaluate,
        min_train_nodes=devices,
        min_evaluate_nodes=devices,
        min_available_nodes=devices,
    )
    data, seed = str(config["data"]), int(config["seed"])
    pictures = test_pictures(data, seed)

    def evaluate(_round: int, arrays: ArrayRecord) -> MetricRecord:
        score = test(arrays.to_numpy_ndarrays(), pictures)
        return MetricRecord({"loss": score.loss, "accuracy": score.accuracy, "num-examples": pictures.size})

    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(initial(seed)),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
    for node, content in ask(grid, "query.memory").items():
        log(INFO, "device %s remembers %s", node, dict(content.metric_records["memory"]))


def wait_for_devices(grid: Grid, wanted: int, limit_s: float) -> None:
    """Wait until enough devices are there. Raises TimeoutError after `limit_s` seconds."""
    end = time.monotonic() + limit_s
    while len(list(grid.get_node_ids())) < wanted:
        if time.monotonic() > end:
            raise TimeoutError(f"fewer than {wanted} devices came within {limit_s:.0f} s")
        time.sleep(0.2)


def ask(grid: Grid, message_type: str) -> dict[int, RecordDict]:
    """Ask every device; the answers of those that gave one."""
    question = RecordDict({"config": ConfigRecord()})
    messages = [Message(question, dst_node_id=node, message_type=message_type) for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages, timeout=QUERY_LIMIT_S)
    return {reply.metadata.src_node_id: reply.content for reply in replies if not reply.has_error()}
