from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argosy_common.errors import DeviceNotFound, RunNotFound, SettingsInvalid, TokenUnknown
from argosy_server.store import DeviceRow, DeviceState, InstructionState, NewInstruction, RunStatus, Store
from argosy_server.store.rows import INSTRUCTION_TRANSITIONS, RUN_TRANSITIONS

NOW = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


def _device(device: str, name: str = "", **fields: object) -> DeviceRow:
    values: dict[str, object] = {
        "device": device,
        "name": name,
        "site": "default",
        "tags": ["kitchen"],
        "state": DeviceState.ENROLLED,
        "identity_public": b"\x00\x01",
        "certificate_pem": "pem",
        "not_after": NOW + timedelta(days=7),
        "inventory": {"machine": "aarch64"},
        "enrolled_at": NOW,
        "last_seen_at": None,
        "version": "0.1.0",
        "boot": "",
        "machine": "aarch64",
    }
    return DeviceRow(**{**values, **fields})  # type: ignore[arg-type]  # the fields of the row, by name


def _run(store: Store) -> int:
    return store.runs.create(
        app_name="har",
        app_digest="ab" * 32,
        app_size=123,
        server_app="har.server:app",
        client_app="har.client:app",
        run_config={"lr": 0.1},
        options={"grace_s": 5},
    )


def _instruction(run: int, number: int, device: str = "d1", round: int = 1) -> NewInstruction:  # noqa: A002
    return NewInstruction(f"{number:032x}", run, round, device, "train", b"envelope", 60.0)


# --- tokens --------------------------------------------------------------------------------------------------------


def test_a_token_is_listed_without_its_secret_and_ends_when_revoked(store: Store) -> None:
    token, text = store.tokens.create("lab", uses=3, ttl_s=60, tags=["a", "b"])
    assert text.startswith(f"{token.id}.")
    assert (token.site, token.uses, token.used, token.tags) == ("lab", 3, 0, ["a", "b"])
    assert token.expires_at - token.created_at == timedelta(seconds=60)
    assert token in store.tokens.list()
    assert text.split(".")[1] not in str(store.tokens.list())
    assert store.tokens.revoke(token.id).expires_at < token.expires_at
    with pytest.raises(TokenUnknown):
        store.tokens.revoke("nothing")


@pytest.mark.parametrize(
    ("uses", "ttl_s"), [(0, 60), (-1, 60), (10**9, 60), (1, 0), (1, -5), (1, math.nan), (1, 1e300)]
)
def test_impossible_tokens_are_refused(store: Store, uses: int, ttl_s: float) -> None:
    with pytest.raises(SettingsInvalid):
        store.tokens.create(uses=uses, ttl_s=ttl_s)


# --- devices -------------------------------------------------------------------------------------------------------


def test_a_device_comes_back_as_it_was_added(store: Store) -> None:
    row = _device("ff" * 8, "pi")
    assert store.devices.add(row) == row
    assert store.devices.get("ff" * 8) == row
    assert row.node_id == 2**64 - 1


def test_a_device_is_found_by_id_name_or_unique_beginning(store: Store) -> None:
    for device, name in (("aa11" + "0" * 12, "one"), ("aa22" + "0" * 12, "two"), ("bb" * 8, "aa11")):
        store.devices.add(_device(device, name))
    assert store.devices.get("aa11").device == "bb" * 8  # a name beats a beginning
    assert store.devices.get("aa2").name == "two"
    assert store.devices.get("AA2").name == "two"
    for key in ("aa", "", "%", "a_", "nobody", "\0", "\ud800", "'; DROP TABLE devices; --", "f" * 100_000):
        with pytest.raises(DeviceNotFound):
            store.devices.get(key)


def test_two_devices_never_share_a_name(store: Store) -> None:
    first = store.devices.add(_device("aa" * 8, "raspberrypi"))
    second = store.devices.add(_device("bb" * 8, "raspberrypi"))
    third = store.devices.add(_device("cc" * 8, " raspberrypi\n"))
    assert (first.name, second.name) == ("raspberrypi", "raspberrypi-2")
    assert third.name == "raspberrypi-3" or third.name.startswith("raspberrypi")
    assert len({first.name, second.name, third.name}) == 3
    assert store.devices.add(_device("bb" * 8, "raspberrypi")).name == "raspberrypi-2"
    assert store.devices.add(_device("dd" * 8, "")).name == "dd" * 8


def test_signs_of_life_are_noted_for_enrolled_devices_only(store: Store) -> None:
    store.devices.add(_device("aa" * 8, "pi"))
    assert store.devices.seen("aa" * 8, boot="b" * 32, version="9", machine="x86", name="pi")
    row = store.devices.get("pi")
    assert (row.boot, row.version, row.machine) == ("b" * 32, "9", "x86")
    assert row.last_seen_at is not None
    assert not store.devices.seen("bb" * 8)


def test_a_device_is_shut_out_and_let_in_again(store: Store) -> None:
    store.devices.add(_device("aa" * 8, "pi"))
    assert store.devices.decide("pi", "revoke", "me").state is DeviceState.REVOKED
    assert store.devices.list()[0].state is DeviceState.REVOKED
    assert store.devices.shut_out().devices == ["aa" * 8]
    assert store.devices.decide("pi", "approve", "me").state is DeviceState.APPROVED
    assert store.devices.shut_out().devices == []
    assert store.devices.list("elsewhere") == []


# --- runs and events -----------------------------------------------------------------------------------------------


def test_a_run_lives_from_pending_to_one_verdict(store: Store) -> None:
    run = _run(store)
    assert store.runs.get(run).status is RunStatus.PENDING
    assert store.runs.update(run, status="running", strategy="FedAvg", rounds=3)
    assert store.runs.update(run, status="finished", final_model="cd" * 32)
    assert not store.runs.update(run, status="failed", error={"code": "late"})
    row = store.runs.get(run)
    assert (row.status, row.error, row.strategy, row.rounds) == (RunStatus.FINISHED, None, "FedAvg", 3)
    assert row.final_model == "cd" * 32
    assert row.started_at is not None
    assert row.finished_at is not None
    assert row.over
    assert [r.id for r in store.runs.list()] == [run]
    assert store.runs.list(RunStatus.RUNNING) == []


@pytest.mark.parametrize("origin", list(RunStatus))
@pytest.mark.parametrize("target", list(RunStatus))
def test_every_change_of_a_runs_status_follows_the_table(store: Store, origin: RunStatus, target: RunStatus) -> None:
    run = _run(store)
    way = {RunStatus.PENDING: [], RunStatus.RUNNING: ["running"]}.get(origin, ["running", origin.value])
    for status in way:
        assert store.runs.update(run, status=status)
    allowed = target is origin or target in RUN_TRANSITIONS[origin]
    assert store.runs.update(run, status=target) is allowed
    assert store.runs.get(run).status is (target if allowed else origin)


@pytest.mark.parametrize("run", [0, -1, 99, 2**31, 2**63, 2**100])
def test_a_run_that_is_not_there_is_a_named_error(store: Store, run: int) -> None:
    for call in (
        lambda: store.runs.get(run),
        lambda: store.runs.update(run, status="running"),
        lambda: store.events.append(run, "x", {}),
        lambda: store.events.after(run),
    ):
        with pytest.raises(RunNotFound):
            call()
    assert store.instructions.of_run(run) == []
    assert store.instructions.cancel_run(run) == []
    if 0 <= run < 2**31:
        with pytest.raises(RunNotFound):
            store.instructions.add_many([_instruction(run, 1)])


def test_events_count_from_one_in_each_run_and_are_read_in_pieces(store: Store) -> None:
    one, two = _run(store), _run(store)
    assert [store.events.append(one, "a", {"n": n}) for n in range(5)] == [1, 2, 3, 4, 5]
    assert store.events.append(two, "b", {}) == 1
    assert [event.seq for event in store.events.after(one, 2, 2)] == [3, 4]
    assert store.events.after(one, 5) == []
    assert store.events.after(one, 2**70, -1) == []


def test_numbers_that_json_lacks_become_null(store: Store) -> None:
    run = _run(store)
    store.events.append(run, "phase-finished", {"loss": math.nan, "more": [math.inf, 1.5], "d": NOW})
    assert store.events.after(run)[0].data == {"loss": None, "more": [None, 1.5], "d": str(NOW)}


# --- instructions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", list(InstructionState))
@pytest.mark.parametrize("target", [s for s in InstructionState if s is not InstructionState.QUEUED])
def test_every_change_of_an_instruction_follows_the_table(
    store: Store, origin: InstructionState, target: InstructionState
) -> None:
    def move(state: InstructionState) -> bool:
        if state is InstructionState.ACCEPTED:
            return store.instructions.accepted(f"{1:032x}")
        return store.instructions.answered(f"{1:032x}", b"reply", {"code": "x"}, state)

    store.instructions.add_many([_instruction(_run(store), 1)])
    if origin is not InstructionState.QUEUED:
        assert move(origin)
    allowed = target in INSTRUCTION_TRANSITIONS[origin]
    assert move(target) is allowed
    row = store.instructions.get(f"{1:032x}")
    assert row is not None
    assert row.state is (target if allowed else origin)


def test_only_the_first_answer_counts(store: Store) -> None:
    store.instructions.add_many([_instruction(_run(store), 1)])
    key = f"{1:032x}"
    assert store.instructions.answered(key, b"first", None, "replied")
    assert not store.instructions.answered(key, b"second", None, "replied")
    assert not store.instructions.accepted(key)
    row = store.instructions.get(key)
    assert row is not None
    assert (row.reply, row.state, row.envelope) == (b"first", InstructionState.REPLIED, b"envelope")
    assert not store.instructions.answered("unknown", b"x", None, "replied")
    assert store.instructions.get("\ud800\0") is None


def test_open_instructions_are_found_by_device_and_by_round(store: Store) -> None:
    run = _run(store)
    store.instructions.add_many([_instruction(run, 1), _instruction(run, 2, "d2"), _instruction(run, 3, "d1", 2)])
    store.instructions.add_many([_instruction(run, 1)])  # once more: nothing happens
    assert [row.id[-1] for row in store.instructions.open_for("d1")] == ["1", "3"]
    store.instructions.accepted(f"{1:032x}")
    store.instructions.answered(f"{3:032x}", None, {"code": "app-raised"}, InstructionState.FAILED)
    assert [row.id[-1] for row in store.instructions.open_for("d1")] == ["1"]
    assert len(store.instructions.of_run(run)) == 3
    assert [row.id[-1] for row in store.instructions.of_run(run, 2)] == ["3"]
    assert store.instructions.cancel_run(run) == ["d1", "d2"]
    assert store.instructions.cancel_run(run) == []
    store.instructions.drop_payloads(run)
    assert {row.envelope for row in store.instructions.of_run(run)} == {b""}


# --- audit ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(alphabet=st.characters(), max_size=20),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_the_audit_log_takes_anything(store: Store, text: str, value: object) -> None:
    store.audit.write(text, text, text, value=value)
    assert len(store.audit.tail(1)) == 1


def test_the_audit_log_cuts_long_texts_and_shows_the_oldest_first(store: Store) -> None:
    for number in range(5):
        store.audit.write("me", f"a{number}", "x" * 100_000, text="y" * 100_000)
    rows = store.audit.tail(3)
    assert [row.action for row in rows] == ["a2", "a3", "a4"]
    assert len(rows[0].subject) == len(rows[0].detail["text"]) == 1000
    assert store.audit.tail(-1) == []
