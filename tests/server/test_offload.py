"""Models run for boards over HTTPS: real TLS, real processes; who may ask, what comes back, and requests of no good."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from argosy_common.artefact.cut import Graph
from argosy_common.offload import DEADLINE, DTYPE, MAX_BODY, PATH, RUN, SHAPE, TensorForm, infer_path
from argosy_server.offload import MAX_PER_DEVICE
from argosy_server.store.models import SignedManifest
from tests.cuttable import staged
from tests.models import answers, windows
from tests.offloading import Bench, request
from tests.waiting import until


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("c"))
    made.add(staged())
    yield made
    made.close()


def code(answer: http.client.HTTPResponse) -> tuple[int, str]:
    return answer.status, str(json.loads(answer.read())["code"])


def tensor(answer: http.client.HTTPResponse) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    assert answer.status == 200, answer.read()
    form = TensorForm.parse(dict(answer.getheaders()), model="m")
    return np.frombuffer(answer.read(), form.dtype).reshape(form.shape)


def test_a_board_gets_the_answer_from_wherever_it_cut_the_model(bench: Bench) -> None:
    board, inputs = bench.board(), windows(3)
    graph, wanted = Graph(staged()), answers(staged(), inputs)
    import onnxruntime as ort  # noqa: PLC0415  (as in tests.models)

    for place in graph.places("y"):
        sent = inputs
        if place.depth:
            sent = ort.InferenceSession(graph.part("x", [place.tensor])).run(None, {"x": inputs})[0]
        with bench.asked(board, *request(sent, place.tensor)) as answer:
            assert float(answer.headers[RUN]) > 0
            assert np.allclose(tensor(answer), wanted, atol=1e-4)


def test_several_requests_share_a_connection(bench: Bench) -> None:
    connection = http.client.HTTPConnection("127.0.0.1")
    connection.sock = secured = bench.connect(bench.board().files)
    for count in (1, 2, 3):
        path, body, headers = request(windows(count))
        connection.request("POST", path, body, headers)
        assert tensor(connection.getresponse()).shape == (count, 6)
        connection.request("POST", PATH, b"12345")
        assert json.loads(connection.getresponse().read()) == {"bytes": 5}
        assert connection.sock is secured
    connection.close()


def test_who_shows_no_certificate_or_was_revoked_is_refused_by_name(bench: Bench) -> None:
    board = bench.board()
    path, body, headers = request(windows(1))
    for target in (path, PATH):
        with bench.asked(None, target, body, headers) as answer:
            assert code(answer) == (403, "offload-refused")
    with bench.asked(board, path, body, headers) as answer:
        assert answer.status == 200
    bench.revoked.add(board.device)
    for target in (path, PATH):
        with bench.asked(board, target, body, headers) as answer:
            assert code(answer) == (403, "offload-refused")


def test_where_it_is_switched_off_that_is_what_boards_are_told(tmp_path: Path) -> None:
    off = Bench(tmp_path / "off", enabled=False)
    try:
        with off.asked(off.board(), *request(windows(1))) as answer:
            assert code(answer) == (403, "offload-refused")
        assert off.host.pid is None
    finally:
        off.close()


ONE = windows(1)
GOOD = TensorForm("float32", ONE.shape).headers()


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "told"),
    [
        pytest.param(infer_path("har", 9, "x"), ONE.tobytes(), GOOD, 404, "model-not-found", id="no such version"),
        pytest.param(infer_path("eye", 1, "x"), ONE.tobytes(), GOOD, 404, "model-not-found", id="no such model"),
        pytest.param(f"{PATH}/har/one?from=x", ONE.tobytes(), GOOD, 404, "model-not-found", id="no number"),
        pytest.param(infer_path("har", 1, "b2"), ONE.tobytes(), GOOD, 400, "input-invalid", id="no place"),
        pytest.param(infer_path("har", 1, "?/\0"), ONE.tobytes(), GOOD, 400, "input-invalid", id="no tensor"),
        pytest.param(infer_path("har", 1, ""), ONE.tobytes(), GOOD, 400, "input-invalid", id="no name"),
        pytest.param(infer_path("har", 1, "t" * 300), ONE.tobytes(), GOOD, 400, "input-invalid", id="long name"),
        pytest.param(infer_path("har", 1, "sum"), ONE.tobytes(), GOOD, 400, "input-invalid", id="of another place"),
        pytest.param(infer_path("har", 1, "x"), ONE.tobytes(), {}, 400, "input-invalid", id="no form"),
        pytest.param(infer_path("har", 1, "x"), ONE.tobytes()[:-1], GOOD, 400, "input-invalid", id="cut"),
        pytest.param(infer_path("har", 1, "x"), ONE.tobytes() + b"0", GOOD, 400, "input-invalid", id="too much"),
        pytest.param(
            infer_path("har", 1, "x"), ONE.tobytes(), {DTYPE: "int8", SHAPE: "1,6,512"}, 400, "input-invalid", id="int8"
        ),
        pytest.param(
            infer_path("har", 1, "x"), b"", {DTYPE: "float32", SHAPE: "0,6,128"}, 400, "input-invalid", id="none"
        ),
        pytest.param(
            infer_path("har", 1, "y.f"),
            bytes(2000 * 64),
            {DTYPE: "float32", SHAPE: "2000,16"},
            400,
            "input-invalid",
            id="a batch too large",
        ),
        pytest.param(
            infer_path("har", 1, "x"),
            b"",
            {DTYPE: "float32", SHAPE: "999999999,999999999"},
            400,
            "input-invalid",
            id="says that it is huge",
        ),
        pytest.param(
            infer_path("har", 1, "x"), ONE.tobytes(), {**GOOD, DEADLINE: "-3"}, 400, "input-invalid", id="deadline"
        ),
        pytest.param(PATH, bytes(MAX_BODY + 1), {}, 400, "input-invalid", id="is huge"),
    ],
)
def test_a_request_of_no_good_gets_a_named_error_and_the_next_one_its_answer(  # noqa: PLR0917  (of the table)
    bench: Bench, path: str, body: bytes, headers: dict[str, str], status: int, told: str
) -> None:
    board = bench.board()
    try:
        with bench.asked(board, path, body, headers) as answer:
            assert code(answer) == (status, told)
    except OSError:
        assert len(body) > MAX_BODY, "only who sends that much may find the line cut under it"
    with bench.asked(board, *request(ONE)) as answer:
        assert tensor(answer).shape == (1, 6)


def test_a_body_that_never_ends_is_cut_and_one_that_never_comes_costs_no_more_than_its_deadline(bench: Bench) -> None:
    board = bench.board()
    path, _, headers = request(ONE)
    connection = http.client.HTTPConnection("127.0.0.1")
    connection.sock = bench.connect(board.files)
    connection.putrequest("POST", path)
    for name, value in {**headers, DEADLINE: "200", "Content-Length": str(ONE.nbytes)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert code(connection.getresponse()) == (504, "deadline-passed")
    connection.close()
    connection = http.client.HTTPConnection("127.0.0.1")
    connection.sock = bench.connect(board.files)
    try:
        connection.request("POST", path, iter([bytes(65536)] * 64), {**headers, "Transfer-Encoding": "chunked"})
        connection.sock.settimeout(20)
        assert code(connection.getresponse()) == (400, "input-invalid")
    except (ConnectionError, ssl.SSLError):
        pass  # cut, which is as good
    finally:
        connection.close()
    assert until(lambda: not bench.offload._inside)


def test_a_board_that_asks_too_much_at_once_is_told_that_it_is_busy_and_others_are_served(bench: Bench) -> None:
    greedy, other = bench.board(), bench.board()
    pid = bench.host.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    ended: list[tuple[int, str]] = []

    def ask() -> None:
        path, body, headers = request(ONE)
        with bench.asked(greedy, path, body, {**headers, DEADLINE: "20000"}) as answer:
            ended.append((answer.status, "") if answer.status == 200 else code(answer))

    try:
        threads = [threading.Thread(target=ask) for _ in range(MAX_PER_DEVICE)]
        for thread in threads:
            thread.start()
        assert until(lambda: bench.offload._inside[greedy.device] == MAX_PER_DEVICE)
        with bench.asked(greedy, *request(ONE)) as answer:
            assert answer.headers["Retry-After"] == "1"
            assert code(answer) == (503, "model-busy")
        path, body, headers = request(ONE)
        with bench.asked(other, path, body, {**headers, DEADLINE: "100"}) as answer:
            assert code(answer) == (504, "deadline-passed")
    finally:
        os.kill(pid, signal.SIGCONT)
    for thread in threads:
        thread.join(20)
    assert ended == [(200, "")] * MAX_PER_DEVICE
    with bench.asked(other, *request(ONE)) as answer:
        assert tensor(answer).shape == (1, 6)


def test_a_process_that_dies_fails_what_it_was_asked_by_name_and_another_takes_its_place(bench: Bench) -> None:
    board, pid = bench.board(), bench.host.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    ended: list[tuple[int, str]] = []

    def ask() -> None:
        with bench.asked(board, *request(ONE)) as answer:
            ended.append(code(answer))

    thread = threading.Thread(target=ask)
    thread.start()
    assert until(lambda: bench.host._pending)
    os.kill(pid, signal.SIGKILL)
    thread.join(20)
    assert ended == [(503, "offload-unavailable")]

    def served() -> bool:
        with bench.asked(board, *request(ONE)) as answer:
            return answer.status == 200

    assert until(served)
    assert bench.host.pid not in (None, pid)


def test_a_model_that_changed_on_the_disk_is_not_run(bench: Bench) -> None:
    model = staged(seed=7)
    reference = bench.add(model)
    row = bench.store.models.get(reference)
    path = bench.blobs.path(bytes.fromhex(row.onnx_digest))
    path.chmod(0o600)
    path.write_bytes(staged(seed=8))
    with bench.asked(bench.board(), *request(ONE, version=row.version)) as answer:
        assert code(answer) == (503, "artefact-invalid")


def test_a_version_whose_signature_does_not_hold_is_not_run(bench: Bench) -> None:
    row = bench.store.models.get(bench.add(staged(seed=9)))
    signature = bench.store.models.get("har:1").signature

    def forged(_version: int, _parent: int | None) -> SignedManifest:
        return SignedManifest(row.manifest, signature, row.onnx_digest, row.golden_digest, None, None)

    made = bench.store.models.add("har", forged, actor="test")
    with bench.asked(bench.board(), *request(ONE, version=made.version)) as answer:
        assert code(answer) == (503, "signature-invalid")
