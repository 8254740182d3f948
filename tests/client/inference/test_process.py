"""The inference process itself: real sockets, real models, kills, swaps under load, and callers who mean no good."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argosy_client.inference import Client, protocol
from argosy_client.inference.folder import ONNX
from argosy_client.inference.host import InferenceHost
from argosy_common.artefact.golden import pack_golden
from argosy_common.errors import ArtefactInvalid, InferenceUnreachable, InputInvalid, ModelMissing, NoBackend
from tests.client.inference.test_choose import plug_in
from tests.models import LABELS, answers, network, put, windows
from tests.waiting import until

MakeHost = Callable[..., InferenceHost]


def test_numpy_goes_in_and_what_the_model_answers_comes_out(models: Path, make_host: MakeHost, tmp_path: Path) -> None:
    model, inputs = network(), windows(3)
    put(models, model, 1)
    make_host()
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660
    with Client(tmp_path / "s") as client:
        expected = answers(model, inputs)
        assert np.allclose(client.infer("har", inputs), expected, atol=1e-4)
        assert np.allclose(client.infer("har", inputs[0].astype(np.float64)), expected[:1], atol=1e-4)
        label, confidence = client.classify("har", inputs[0])
        assert label == LABELS[int(np.argmax(expected[0]))]
        assert 1 / 6 < confidence <= 1
        (told,) = client.models()
        assert (told["model"], told["version"], told["requests"]) == ("har", 1, 3)
        assert told["ran_on"].startswith("CPU")
        assert told["backend"] in ("onnxruntime", "openvino")
        assert "32 inputs" in told["tried"]["onnxruntime-int8"]
        assert "/dev/hailo0" in told["unavailable"]["hailo"]


def test_what_cannot_be_answered_is_told_by_name_and_the_connection_goes_on(
    models: Path, make_host: MakeHost, tmp_path: Path
) -> None:
    put(models, network(), 1, preprocessing={"kind": "standardise", "mean": [0.0] * 6, "deviation": [1.0] * 6})
    make_host()
    with Client(tmp_path / "s") as client:
        with pytest.raises(ModelMissing, match="nobody"):
            client.infer("nobody", windows(1))
        for wrong in (np.zeros(5), np.zeros((6, 127)), np.zeros((0, 6, 128)), np.zeros((1, 6, 128), np.complex128)):
            with pytest.raises(InputInvalid):
                client.infer("har", wrong)
        with pytest.raises(InputInvalid, match="deadline"):
            client.infer("har", windows(1), deadline_ms=-1)
        assert client.infer("har", windows(1)).shape == (1, 6)


def test_versions_are_swapped_under_load_and_no_request_fails(
    models: Path, make_host: MakeHost, tmp_path: Path
) -> None:
    made = [network(seed) for seed in range(1, 5)]
    inputs = windows(1)
    right = [answers(model, inputs) for model in made]
    put(models, made[0], 1)
    host = make_host()
    failures: list[Exception] = []
    done = threading.Event()
    counts = [0, 0, 0]

    def ask(number: int) -> None:
        with Client(tmp_path / "s") as client:
            while not done.is_set():
                try:
                    outputs = client.infer("har", inputs)
                    assert any(np.allclose(outputs, each, atol=1e-3) for each in right)
                    counts[number] += 1
                except Exception as error:  # noqa: BLE001  (what the test is about)
                    failures.append(error)

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for caller in callers:
        caller.start()
    for version in range(2, 8):
        put(models, made[version % 4], version, previous=version - 1)
        assert host.load("har")["version"] == version
    assert until(lambda: min(counts) > 50)
    done.set()
    for caller in callers:
        caller.join(20)
    assert failures == []
    assert host.stats()[0]["version"] == 7


def test_a_version_that_is_wrong_or_was_changed_does_not_take_the_place_of_one_that_works(
    models: Path, make_host: MakeHost, tmp_path: Path
) -> None:
    model, inputs = network(), windows(4)
    put(models, model, 1)
    host = make_host()
    put(models, network(2), 2, previous=1, golden=pack_golden(inputs, answers(model, inputs) + 5.0))
    with pytest.raises(NoBackend, match="golden"):
        host.load("har")
    version = put(models, network(3), 3, previous=1)
    (version.path / ONNX).write_bytes(network(4))
    assert host.load("har")["version"] == 1, "the one before, since the card went bad"
    with Client(tmp_path / "s") as client:
        assert np.allclose(client.infer("har", inputs), answers(model, inputs), atol=1e-4)


def test_after_a_power_cut_the_last_good_version_is_served_without_anybody(models: Path, make_host: MakeHost) -> None:
    put(models, network(1), 1)
    version = put(models, network(2), 2, previous=1)
    assert make_host().stats()[0]["version"] == 2
    (version.path / ONNX).write_bytes(b"")
    assert make_host().stats()[0]["version"] == 1
    (models / "har" / "current.json").write_bytes(b"{")
    host = make_host()
    assert host.stats() == []
    with pytest.raises(ModelMissing):
        host.load("har")


@pytest.mark.parametrize(
    ("does", "restarts"), [("raise when served", 0), pytest.param("crash when served", 2, marks=pytest.mark.slow)]
)
def test_a_backend_that_fails_only_where_it_is_to_serve_gives_way_to_the_next_best(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, restarts: int
) -> None:
    plug_in(tmp_path, monkeypatch, does)
    put(tmp_path / "models", network(), 1, backends=["odd", "onnxruntime"])
    host = make_host()
    (told,) = host.stats()
    assert told["backend"] == "onnxruntime"
    assert ("out of luck" if restarts == 0 else "took the inference process with it") in told["unavailable"]["odd"]
    assert host.restarts == restarts


def test_where_nothing_runs_the_version_in_force_any_more_the_one_before_answers(
    models: Path, make_host: MakeHost
) -> None:
    put(models, network(1), 1)
    put(models, network(2), 2, previous=1, backends=["hailo"])
    host = make_host()
    assert host.stats()[0]["version"] == 1
    with pytest.raises(NoBackend, match="hailo"):
        host.load("har")


def test_a_process_that_is_killed_is_started_again_and_serves_what_it_served(
    models: Path, make_host: MakeHost, tmp_path: Path
) -> None:
    put(models, network(), 1)
    host = make_host()
    with Client(tmp_path / "s") as client:
        client.infer("har", windows(1))
        pid = host.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert until(lambda: host.pid not in (None, pid) and host.wait_ready(0.1))
        assert client.infer("har", windows(1)).shape == (1, 6)
    assert host.restarts == 1


def test_it_ends_with_its_daemon(models: Path, make_host: MakeHost, tmp_path: Path) -> None:
    put(models, network(), 1)
    host = make_host()
    assert host.pid is not None
    host.stop()
    assert host.pid is None
    assert not (tmp_path / "s").exists()
    with pytest.raises(InferenceUnreachable):
        Client(tmp_path / "s").infer("har", windows(1))
    with pytest.raises(InferenceUnreachable):
        host.stats()


def test_two_models_are_served_and_one_that_is_broken_does_not_keep_the_other_out(
    models: Path, make_host: MakeHost
) -> None:
    put(models, network(1), 1, name="good")
    put(models, b"no onnx at all", 1, name="bad", golden=pack_golden(windows(4), np.zeros((4, 6), np.float32)))
    host = make_host()
    assert [each["model"] for each in host.stats()] == ["good"]
    with pytest.raises(NoBackend):
        host.load("bad")
    host.drop("good")
    assert host.stats() == []


# --- hostile callers -----------------------------------------------------------------------------------------------


def _said(path: Path, data: bytes) -> bytes:
    """Send bytes, then nothing more; return what comes until it hangs up."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        got = b""
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65536):
                got += piece
        except ConnectionError:
            pass  # it may hang up at any moment
        return got


@pytest.fixture
def served(models: Path, make_host: MakeHost, tmp_path: Path) -> Path:
    put(models, network(), 1)
    make_host()
    return tmp_path / "s"


def test_bytes_of_every_kind_end_their_own_connection_at_most(served: Path) -> None:
    whole = protocol.PREFIX.pack(b"AI", 1, 5, 0)

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.binary(max_size=200)
        | st.binary(max_size=60).map(lambda tail: whole + tail)
        | st.builds(
            lambda maps, tensor, tail: protocol.PREFIX.pack(b"AI", 1, maps, tensor) + tail,
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=60),
        )
    )
    def say(data: bytes) -> None:
        _said(served, data)

    say()
    with Client(served) as client:
        assert client.infer("har", windows(1)).shape == (1, 6)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"do": "infer"},
        {"do": "infer", "model": 5},
        {"do": "infer", "model": "har", "dtype": "object", "shape": [1]},
        {"do": "infer", "model": "har", "dtype": "float32", "shape": [-1]},
        {"do": "infer", "model": "har", "dtype": "float32", "shape": [2**40, 2**40]},
        {"do": "infer", "model": "har", "dtype": "float32", "shape": "x"},
        {"do": "infer", "model": "har", "dtype": "float32", "shape": [1], "deadline_ms": "soon"},
        {"do": "infer", "model": "har", "picture": True},
        {"do": "rm -rf"},
    ],
    ids=str,
)
def test_maps_that_make_no_sense_are_refused_by_name(served: Path, fields: dict[str, Any]) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(served))
        stream = sock.makefile("rb")
        protocol.send(sock, fields, np.zeros(3, np.float32))
        answer = protocol.receive(stream)
        assert answer is not None
        assert answer[0]["error"]["code"] == "input-invalid"


def test_a_caller_that_dies_in_the_middle_and_many_that_hang_on_harm_nobody(served: Path) -> None:
    idle = []
    for _ in range(70):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(served))
        sock.sendall(protocol.PREFIX.pack(b"AI", 1, 100, 1000))
        idle.append(sock)
    for sock in idle:
        sock.close()

    def works() -> bool:
        try:
            with Client(served) as client:
                return client.infer("har", windows(1)).shape == (1, 6)
        except InferenceUnreachable:
            return False

    assert until(works)


# --- HTTP ----------------------------------------------------------------------------------------------------------


def test_the_same_answers_come_over_loopback_http(models: Path, make_host: MakeHost, capfd: Any) -> None:  # noqa: ANN401  (pytest's)
    model, inputs = network(), windows(2)
    put(models, model, 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    make_host(http=port)
    expected = answers(model, inputs)

    def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any] | bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        plain = answer.headers.get("Content-Type") == "application/octet-stream"
        return answer.status, data if plain else json.loads(data)

    said = json.dumps({"inputs": inputs.tolist()}).encode()
    status, told = ask("POST", "/v1/models/har?classify=1", said, Content_Type="application/json")
    assert status == 200
    assert isinstance(told, dict)
    assert np.allclose(told["outputs"], expected, atol=1e-4)
    assert told["label"] in LABELS
    octets = {"Content_Type": "application/octet-stream", "Accept": "application/octet-stream", "X_Shape": "2,6,128"}
    status, raw = ask("POST", "/v1/models/har", inputs.tobytes(), **octets)
    assert isinstance(raw, bytes)
    assert np.allclose(np.frombuffer(raw, np.float32).reshape(2, 6), expected, atol=1e-4)
    assert ask("GET", "/v1/models")[0] == 200
    assert ask("POST", "/v1/models/no", said, Content_Type="application/json")[0] == 404
    assert ask("POST", "/v1/models/har", b"[1", Content_Type="application/json")[0] == 400
    assert ask("POST", "/v1/models/har", b"\xff\xd8\xff", Content_Type="image/jpeg")[0] == 400
    assert ask("GET", "/v1/models", Host="evil.example:80")[0] == 403


def test_a_version_whose_files_do_not_fit_is_told_of(models: Path, make_host: MakeHost) -> None:
    version = put(models, network(), 1)
    host = make_host()
    (version.path / "manifest.json").write_text("{}")
    with pytest.raises(ArtefactInvalid):
        host.load("har")
