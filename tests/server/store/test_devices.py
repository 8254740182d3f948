"""Names, tags and states of devices, and what the first version's tables become."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from argosy_common import x509
from argosy_common.clock import SystemClock
from argosy_common.errors import DeviceStateForbids, NameUnusable
from argosy_server.store import DeviceState, Store, database
from argosy_server.store.rows import DEVICE_TRANSITIONS
from argosy_server.store.tables import Certificate
from tests.server.store.test_tables import NOW, _device

A, B = "aa" * 8, "bb" * 8


def test_an_operators_name_stays_whatever_the_device_calls_itself(store: Store) -> None:
    store.devices.add(_device(A, "pi"))
    store.devices.add(_device(B, "other"))
    assert store.devices.rename("pi", "greenhouse", "me").name == "greenhouse"
    store.devices.seen(A, name="pi")
    store.devices.add(_device(A, "pi"))
    assert store.devices.get(A).name == "greenhouse"
    for name in ("other", B, "", " x", "x" * 65, "a\nb", "\0"):
        with pytest.raises(NameUnusable):
            store.devices.rename("greenhouse", name, "me")
    assert store.devices.rename("greenhouse", "greenhouse", "me").name == "greenhouse"
    entry = store.audit.tail()[0]
    assert (entry.actor, entry.action, entry.detail) == ("me", "device.rename", {"before": "pi", "name": "greenhouse"})


def test_tags_are_added_and_taken_away(store: Store) -> None:
    store.devices.add(_device(A, "pi"))
    assert store.devices.tag("pi", "me", add=["a", "b", "a"], remove=["kitchen", "none"]).tags == ["a", "b"]
    assert store.devices.tag("pi", "me", remove=["a"]).tags == ["b"]
    with pytest.raises(NameUnusable):
        store.devices.tag("pi", "me", add=[f"t{n}" for n in range(32)])
    with pytest.raises(NameUnusable):
        store.devices.tag("pi", "me", add=[""])
    assert store.devices.get("pi").tags == ["b"]


def test_a_certificate_is_a_devices_own_until_it_is_revoked_and_stays_so_when_the_device_is_let_in_again(
    store: Store,
) -> None:
    for device in (A, B):
        store.devices.add(_device(device, device))
    with store.devices._database.write() as session:
        session.add(Certificate(serial="1f", device=A, not_after=NOW, issued_at=NOW))
    assert store.devices.holds(A, "1f")
    for device, serial in ((B, "1f"), (A, "2f"), (A, "")):
        assert not store.devices.holds(device, serial)
    for event in ("revoke", "approve"):
        store.devices.decide(A, event, "me")
        assert not store.devices.holds(A, "1f")


PI = {"model": "Raspberry Pi 4", "serial": "1000", "kernel": "6.6", "cores": 4}


def test_another_board_under_a_devices_identity_is_noted_and_another_kernel_only_kept(store: Store) -> None:
    store.devices.add(_device(A, "pi", inventory=PI))
    assert store.devices.describe(A, PI | {"kernel": "6.12", "memory": 8}) == {}
    assert store.devices.get(A).inventory == PI | {"kernel": "6.12", "memory": 8}
    assert store.audit.tail() == []
    moved = {"model": "Raspberry Pi 5", "serial": "1000", "kernel": "6.12", "accelerators": "hailo (/dev/hailo0)"}
    changed = {
        "model": "Raspberry Pi 4 → Raspberry Pi 5",
        "accelerators": "nothing → hailo (/dev/hailo0)",
    }
    assert store.devices.describe(A, moved) == changed
    assert store.devices.get(A).inventory == moved
    (entry,) = store.audit.tail()
    assert (entry.actor, entry.action, entry.subject) == (A, "device.inventory-changed", A)
    assert entry.detail == changed


def test_the_first_inventory_of_a_device_that_joined_without_one_is_no_change(store: Store) -> None:
    store.devices.add(_device(A, "pi", inventory={}))
    assert store.devices.describe(A, PI) == {}
    assert store.devices.get(A).inventory == PI
    assert store.audit.tail() == []


def test_an_inventory_with_what_no_database_holds_is_kept_cleaned(store: Store) -> None:
    store.devices.add(_device(A, "pi", inventory=PI))
    odd = PI | {"serial": "10\0\ud800", "\0": "x"}
    assert store.devices.describe(A, odd) == {"serial": "1000 → 10\ufffd?"}
    assert store.devices.get(A).inventory == PI | {"serial": "10\ufffd?", "\ufffd": "x"}
    assert store.devices.describe(A, odd) == {}, "it is the same again"


@pytest.mark.parametrize("state", list(DeviceState))
@pytest.mark.parametrize("event", ["approve", "reject", "revoke"])
def test_an_operator_does_what_the_table_allows_and_nothing_else(store: Store, state: DeviceState, event: str) -> None:
    store.devices.add(_device(A, "pi", state=state))
    after = DEVICE_TRANSITIONS.get((state, event))
    if after is None:
        with pytest.raises(DeviceStateForbids, match=str(state)):
            store.devices.decide("pi", event, "me")
        assert store.devices.get("pi").state is state
        assert store.audit.tail() == []
    else:
        assert store.devices.decide("pi", event, "me").state is after
        assert [row.action for row in store.audit.tail()] == [f"device.{event}"]


def test_certificates_of_the_first_version_are_known_and_those_of_refused_devices_are_revoked(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).with_name("migrations")))
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    key, now = x509.generate_key(), datetime.now(UTC)
    ca = x509.self_signed_ca(key, "test", now)
    made = {name: x509.issue_client(ca, key, x509.generate_key().public_key(), name, now) for name in (A, B)}
    until = (now + timedelta(days=365)).strftime("%Y-%m-%d %H:%M:%S.%f")
    with sqlite3.connect(file) as raw:
        for name, state in ((A, "refused"), (B, "enrolled")):
            pem = x509.certificate_pem(made[name]).decode()
            raw.execute(
                "INSERT INTO devices VALUES (?, ?, 'default', '[]', ?, x'00', ?, ?, '{}', ?, NULL, '', '', '')",
                (name, name, state, pem, until, until),
            )
    raw.close()
    with Store.open(f"sqlite:///{file}", SystemClock()) as store:
        assert store.devices.get(A).state is DeviceState.REVOKED
        assert store.devices.shut_out().devices == [A]
        assert store.devices.shut_out().serials == [made[A].serial_number]
        store.devices.decide(B, "revoke", "me")
        assert len(store.devices.shut_out().serials) == 2
