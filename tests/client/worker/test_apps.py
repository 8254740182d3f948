"""Ordinary Flower apps of every style run in the worker as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from tests.client.worker.bench import Bench
from tests.waiting import until

TRAIN = """
@app.train()
def train(message: Message, context: Context) -> Message:
    arrays = message.content["arrays"].to_numpy_ndarrays()
    lr = message.content["config"]["lr"]
    return Message(RecordDict({
        "arrays": ArrayRecord([a + lr for a in arrays]),
        "metrics": MetricRecord({"num-examples": 10, "loss": 0.25, "epochs": context.run_config["local-epochs"],
                                 "partition": context.node_config["partition-id"], "run": context.run_id}),
    }), reply_to=message)

@app.evaluate()
def evaluate(message, context):
    return Message(RecordDict({"m": MetricRecord({"num-examples": 4, "sum": float(sum(a.numpy().sum()
        for a in message.content["arrays"].values()))})}), reply_to=message)

@app.query("count")
def query(message, context):
    print("counting", flush=True)
    return Message(RecordDict({"c": ConfigRecord({"node": str(context.node_id)})}), reply_to=message)
"""


def test_trains_evaluates_and_answers_queries_in_one_resident_worker(bench: Bench) -> None:
    bench.app(TRAIN)
    reply = bench.told()
    assert np.array_equal(reply["arrays"]["0"].numpy(), np.arange(6000, dtype=np.float32) + np.float32(0.5))
    assert dict(reply["metrics"]) == {"num-examples": 10, "loss": 0.25, "epochs": 2, "partition": 3, "run": 7}
    first = bench.worker
    assert bench.told(bench.instruction(kind="evaluate"))["m"]["num-examples"] == 4
    node = bench.told(bench.instruction(RecordDict({"q": ConfigRecord({})}), "query.count"))["c"]["node"]
    assert node == str(2**63 + 17)
    assert bench.worker == first
    # it is drained on a thread of its own, which may be behind the reply
    assert until(lambda: b"counting" in (bench.root / "worker" / "worker.log").read_bytes())
    assert bench.host.rss() > 10_000_000


def test_large_arrays_of_a_reply_are_blobs_of_the_store(bench: Bench) -> None:
    bench.app(TRAIN)
    result = bench.result()
    assert len(result.blobs) == 1
    assert bench.store.has(result.blobs[0].digest)
    assert len(result.flower) < 2000
    assert result.peak_rss > 10_000_000
    assert 0 < result.seconds < 60


def test_a_reply_lives_as_long_as_its_instruction_whatever_the_devices_clock_says(bench: Bench) -> None:
    bench.app(TRAIN)
    message = bench.instruction()
    message.metadata.created_at = 1000.0
    meta = bench.ask(message).metadata
    assert (meta.created_at, meta.ttl) == (1000.0, 100.0)
    assert meta.reply_to_message_id == message.metadata.message_id
    assert (meta.src_node_id, meta.dst_node_id) == (2**63 + 17, 1)


def test_state_stays_across_messages_and_across_workers(bench: Bench) -> None:
    bench.app("""
    @app.train()
    def train(message, context):
        old = context.state["mine"]["a"].numpy() if "mine" in context.state else np.zeros(5000)
        context.state["mine"] = ArrayRecord({"a": Array(old + 1)})
        rounds = context.state["n"]["rounds"] + 1 if "n" in context.state else 1
        context.state["n"] = MetricRecord({"rounds": rounds})
        return Message(RecordDict({"m": MetricRecord({"rounds": rounds, "first": float(old[0])})}), reply_to=message)
    """)
    assert dict(bench.told()["m"]) == {"rounds": 1, "first": 0.0}
    assert dict(bench.told()["m"]) == {"rounds": 2, "first": 1.0}
    bench.host.close()
    bench.host = bench.new_host()
    assert dict(bench.told()["m"]) == {"rounds": 3, "first": 2.0}


def test_mods_wrap_the_app_and_keep_their_state(bench: Bench) -> None:
    bench.app(
        """
        def counting(message, context, call_next):
            n = context.state["mod"]["n"] + 1 if "mod" in context.state else 1
            context.state["mod"] = MetricRecord({"n": n})
            reply = call_next(message, context)
            reply.content["mod"] = MetricRecord({"n": n})
            return reply

        app = ClientApp(mods=[counting])

        @app.evaluate(mods=[message_size_mod, counting])
        def evaluate(message, context):
            return Message(RecordDict({"m": MetricRecord({"num-examples": 1})}), reply_to=message)
        """,
        header="""
from flwr.app import *
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import message_size_mod
""",
    )
    assert bench.told(bench.instruction(kind="evaluate"))["mod"]["n"] == 1
    assert bench.told(bench.instruction(kind="evaluate"))["mod"]["n"] >= 2


def test_a_legacy_client_fn_runs_as_it_is(bench: Bench) -> None:
    bench.app(
        """
        class Legacy(NumPyClient):
            def fit(self, parameters, config):
                return [p * 2 for p in parameters], 5, {"lr": config["lr"]}

            def evaluate(self, parameters, config):
                return float(parameters[0].sum()), 6, {"accuracy": 0.5}

        def client_fn(context):
            return Legacy().to_client()

        app = ClientApp(client_fn=client_fn)
        """,
        header="from flwr.client import NumPyClient\nfrom flwr.clientapp import ClientApp\n",
    )
    content = RecordDict(
        {
            "fitins.parameters": ArrayRecord([np.full(9000, 3.0)]),
            "fitins.config": ConfigRecord({"lr": 0.1}),
        }
    )
    fit = bench.told(bench.instruction(content))
    assert np.array_equal(fit["fitres.parameters"]["0"].numpy(), np.full(9000, 6.0))
    content = RecordDict(
        {
            "evaluateins.parameters": ArrayRecord([np.ones(9000)]),
            "evaluateins.config": ConfigRecord({}),
        }
    )
    evaluated = bench.told(bench.instruction(content, "evaluate"))
    assert evaluated["evaluateres.loss"]["loss"] == 9000.0


def test_an_error_that_the_app_replies_with_arrives_as_flowers_error(bench: Bench) -> None:
    bench.app("""
    from flwr.app import Error

    @app.train()
    def train(message, context):
        return Message(Error(code=42, reason="no data " * 9000), reply_to=message)
    """)
    reply = bench.ask()
    assert reply.has_error()
    assert reply.error.code == 42
    assert str(reply.error.reason).startswith("no data")


def test_large_metrics_travel_as_a_blob(bench: Bench) -> None:
    bench.app("""
    @app.train()
    def train(message, context):
        return Message(RecordDict({"m": MetricRecord({"curve": [0.5] * 20000})}), reply_to=message)
    """)
    result = bench.result()
    assert len(result.flower) < 2000
    assert len(result.blobs) == 1


def test_another_run_gets_a_fresh_worker_and_a_dropped_one_ends_it(bench: Bench) -> None:
    bench.app("""
    import os
    seen = []

    @app.query()
    def query(message, context):
        seen.append(1)
        return Message(RecordDict({"m": MetricRecord({"pid": os.getpid(), "seen": len(seen)})}), reply_to=message)
    """)
    question = RecordDict({"q": MetricRecord({})})
    assert bench.told(bench.instruction(question, "query"))["m"]["seen"] == 1
    assert bench.told(bench.instruction(question, "query"))["m"]["seen"] == 2
    bench.run = 8
    assert bench.told(bench.instruction(question, "query"))["m"]["seen"] == 1
    bench.host.drop_run(7)
    assert bench.host.rss() > 0
    bench.host.drop_run(8)
    assert bench.host.rss() == 0


def test_metric_values_keep_their_types(bench: Bench) -> None:
    bench.app("""
    @app.query()
    def query(message, context):
        return Message(RecordDict({"m": MetricRecord(dict(message.content["q"])),
                                   "c": ConfigRecord({"b": True, "x": b"1", "l": ["a"]})}), reply_to=message)
    """)
    metrics: dict[str, Any] = {"i": 2**63 + 1, "f": 1e-300, "li": [1, -2], "lf": [0.5]}
    content = bench.told(bench.instruction(RecordDict({"q": MetricRecord(metrics)}), "query"))
    assert dict(content["m"]) == metrics
    assert dict(content["c"]) == {"b": True, "x": b"1", "l": ["a"]}
