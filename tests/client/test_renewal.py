"""Renewing a certificate: against the real HTTPS server and a real broker, with cuts and troubles in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as cx509
from sqlalchemy import delete

from argosy_client import identity, renewing
from argosy_client.identity import TLS_KEY, Enrolment
from argosy_client.renewal import Renewal, Step
from argosy_common import x509
from argosy_common.clock import SystemClock
from argosy_common.coordinator_https import Address, exchange
from argosy_common.enrolment import CA_PATH
from argosy_common.errors import PinMismatch
from argosy_common.link import Link, LinkSettings
from argosy_common.link.tls import client_context
from argosy_server.broker import Broker, open_broker
from argosy_server.settings import BrokerTable
from argosy_server.store.tables import Certificate
from tests.client.power import Fuse, PowerCut
from tests.client.yard import Yard, open_yard
from tests.waiting import until

DAY = timedelta(days=1)


class Hasty(random.Random):
    """Draws the least: no test waits for a jitter."""

    def random(self) -> float:
        return 0.0

    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002  (of `random.Random`)
        return min(a, 0.05)


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yield from open_yard(tmp_path, datetime.now(UTC))


@pytest.fixture
def broker(yard: Yard) -> Iterator[Broker]:
    """A Mosquitto under the yard's authority."""
    table = BrokerTable.model_validate({"kind": "mosquitto", "host": "127.0.0.1", "port": 0})
    tls = yard.ca.issue_server(["127.0.0.1"], "broker")
    broker = open_broker(
        table, tls, yard.folder / "broker", clock=SystemClock(), rng=random.Random(1), crl=yard.ca.write_crl([])
    )
    broker.start()
    yard.brokers[:] = [broker.address]
    yield broker
    broker.stop()


def joined(yard: Yard, days_ago: float, name: str = "pi") -> Enrolment:
    """Let a board join as if that had been so many days ago."""
    yard.clock.shift = -days_ago * DAY
    enrolment = yard.join(name)
    yard.clock.shift = timedelta(0)
    return enrolment


class Daemon:
    """What a daemon makes of an enrolment: a link to the broker, and the renewal that keeps it good."""

    def __init__(self, enrolment: Enrolment) -> None:
        self.adopted: list[Enrolment] = []
        self.renewal = Renewal(enrolment, rng=Hasty(), adopted=self.adopted.append)
        host, port = enrolment.brokers[0]
        settings = LinkSettings(
            host=host, port=port, client_id=enrolment.device, tls=None, backoff_base_s=0.1, backoff_cap_s=0.2
        )
        self.link = Link(settings, clock=SystemClock(), rng=random.Random(2), tls=self.renewal.files)
        self.link.on_up(lambda _present: self.renewal.connected())

    def __enter__(self) -> Daemon:
        self.link.start()
        self.renewal.start(self.link)
        return self

    def __exit__(self, *_: object) -> None:
        self.renewal.stop(5.0)
        self.link.stop(1.0)


def renewals(yard: Yard) -> int:
    return [row.action for row in yard.store.audit.tail()].count("device.renew")


def certificate(enrolment: Enrolment) -> cx509.Certificate:
    return x509.load_certificate(enrolment.certificate_path)


# --- the daemon's part ---------------------------------------------------------------------------------------------


def test_a_certificate_past_two_thirds_of_its_life_is_replaced_and_the_new_one_connects(
    yard: Yard, broker: Broker
) -> None:
    enrolment = joined(yard, 6)
    before = certificate(enrolment)
    with Daemon(enrolment) as daemon:
        assert until(lambda: daemon.adopted)
        assert until(lambda: daemon.link.connected)
        assert daemon.link.stats().connects == 2, "the old one was in use until the new one was there"
        assert until(lambda: daemon.renewal.step is Step.RESTING)
    there = Enrolment.load(enrolment.state_dir)
    assert there == daemon.adopted[0]
    assert (there.device, there.node_id, there.brokers) == (enrolment.device, enrolment.node_id, (broker.address,))
    assert certificate(there).public_key() != before.public_key()
    left = certificate(there).not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=6.9) < left < timedelta(days=7)
    assert not (enrolment.state_dir / TLS_KEY).exists(), "the old key is of no use any more"
    assert not (enrolment.state_dir / renewing.RENEWING).exists()
    with Daemon(there) as again:
        assert again.link.wait_connected(20), again.link.last_error
    assert renewals(yard) == 1


def test_one_that_a_restored_coordinator_does_not_know_is_shown_and_replaced(yard: Yard, broker: Broker) -> None:
    enrolment = joined(yard, 1)
    serial = x509.serial_text(certificate(enrolment))
    with yard.store._database.write() as session:
        session.execute(delete(Certificate).where(Certificate.serial == serial))
    with Daemon(enrolment) as daemon:
        assert until(lambda: daemon.adopted)
        assert until(lambda: daemon.renewal.step is Step.RESTING)
    assert renewals(yard) == 1


def test_one_that_is_not_due_is_left_alone(yard: Yard, broker: Broker) -> None:
    enrolment = joined(yard, 4)
    with Daemon(enrolment) as daemon:
        assert until(lambda: daemon.renewal.step is Step.RESTING)
        assert daemon.link.wait_connected(20)
    assert Enrolment.load(enrolment.state_dir) == enrolment
    assert renewals(yard) == 0


def test_a_board_that_was_away_beyond_its_certificates_end_comes_back_by_itself(yard: Yard, broker: Broker) -> None:
    enrolment = joined(yard, 20)
    with Daemon(enrolment) as daemon:
        assert until(lambda: daemon.adopted)
        assert until(lambda: daemon.link.connected)
        assert daemon.link.stats().connects == 1, "the broker refuses the one that has ended"
    assert Enrolment.load(enrolment.state_dir).device == enrolment.device


def test_while_the_coordinator_is_down_the_old_one_is_used_and_asking_goes_on(
    yard: Yard, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    enrolment = joined(yard, 6)
    port = yard.server.address[1]
    yard.server.stop()
    with Daemon(enrolment) as daemon:
        assert daemon.link.wait_connected(20)
        assert until(lambda: sum("renewal.failed" in line for line in caplog.messages) >= 2)
        assert daemon.renewal.step is Step.ASKING
        yard.serve(port)
        assert until(lambda: daemon.adopted)


def test_an_answer_that_was_lost_with_the_power_is_asked_for_again_and_counts_once(
    yard: Yard, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolment = joined(yard, 6)
    lost = Renewal(enrolment, rng=Hasty())
    monkeypatch.setattr(renewing, "keep", _power_cut)
    lost._advance()
    with pytest.raises(PowerCut):
        lost._advance()
    monkeypatch.undo()
    with Daemon(Enrolment.load(enrolment.state_dir)) as daemon:
        assert until(lambda: daemon.adopted)
    assert renewals(yard) == 1


def test_a_new_one_that_the_broker_refuses_is_given_up_and_the_old_one_stays_in_use(
    yard: Yard, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    enrolment = joined(yard, 6)
    issue = yard.ca.issue_device
    refused: list[int] = []

    def issue_and_revoke(
        device: str, key: x509.PublicKey, life: timedelta = x509.DEVICE_LIFE
    ) -> list[cx509.Certificate]:
        issued = issue(device, key, life)
        refused.append(issued[0].serial_number)
        yard.ca.write_crl(refused)
        broker.shut_out([])  # reads the list again
        return issued

    monkeypatch.setattr(yard.ca, "issue_device", issue_and_revoke)
    with Daemon(enrolment) as daemon:
        assert until(lambda: "renewal.useless" in " ".join(caplog.messages), patience_s=60)
        assert not daemon.adopted
        monkeypatch.setattr(yard.ca, "issue_device", issue)
        assert until(lambda: daemon.adopted, patience_s=60)
        assert until(lambda: daemon.link.connected)
    assert certificate(daemon.adopted[0]).serial_number not in refused


def test_one_that_ended_before_it_could_be_tried_is_given_up_for_another(
    yard: Yard, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """The board got it and was switched off for long: by now the broker refuses that one and the one before."""
    enrolment = joined(yard, 20)
    yard.clock.shift = -8 * DAY
    away = Renewal(enrolment, rng=Hasty())
    while away.step is not Step.PROVING:
        away._advance()
    yard.clock.shift = timedelta(0)
    with Daemon(Enrolment.load(enrolment.state_dir)) as daemon:
        assert until(lambda: daemon.adopted)
        assert until(lambda: daemon.link.connected)
    assert any("renewal.useless" in line for line in caplog.messages)
    assert renewals(yard) == 2


def test_a_coordinator_that_is_none_is_not_asked_for_anything(yard: Yard, tmp_path: Path) -> None:
    enrolment = joined(yard, 6)
    (tmp_path / "other").mkdir()
    for other in open_yard(tmp_path / "other", datetime.now(UTC)):
        moved = enrolment.state_dir / "enrolment.json"
        moved.write_text(moved.read_text().replace(yard.server.url, other.server.url))
        away = Renewal(Enrolment.load(enrolment.state_dir), rng=Hasty())
        with pytest.raises(PinMismatch):
            away._advance()
        assert [row.action for row in other.store.audit.tail()] == []


# --- the disk's part -----------------------------------------------------------------------------------------------


class Dialling:
    """A connection by real TLS to the coordinator's own port, which takes whatever its authority issued."""

    connected = False

    def __init__(self, yard: Yard) -> None:
        self._address = Address.parse(yard.server.url)
        self.renewal: Renewal | None = None

    def reconnect(self) -> None:
        assert self.renewal is not None
        exchange(self._address, client_context(self.renewal.files()), "GET", CA_PATH)
        self.connected = True


def renew_by_hand(yard: Yard, state_dir: Path) -> Enrolment:
    """Do a renewal step by step, as a daemon that starts with what is on the disk does."""
    dialling = Dialling(yard)
    one = dialling.renewal = Renewal(Enrolment.load(state_dir), rng=Hasty())
    one._link = dialling
    dialling.reconnect()
    for _ in range(10):
        if one.step is Step.RESTING:
            return one.enrolment
        one._advance()
    raise AssertionError(one.step)


def test_the_power_may_be_cut_between_any_two_changes_on_the_disk(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed in range(100):
        if allowed % 5 == 0:  # all boards have one address here, and it may not ask that often
            yard.server.stop()
            yard.serve()
        enrolment = joined(yard, 6, f"board-{allowed}")
        with monkeypatch.context() as patched:
            fuse = Fuse(patched, allowed)
            try:
                renew_by_hand(yard, enrolment.state_dir)
            except PowerCut:
                assert fuse.blown
        there = Enrolment.load(enrolment.state_dir)
        exchange(Address.parse(yard.server.url), client_context(there.tls_files()), "GET", CA_PATH)
        renewed = renew_by_hand(yard, enrolment.state_dir)
        assert renewed == Enrolment.load(enrolment.state_dir)
        assert renewed.device == enrolment.device
        assert [path.name for path in enrolment.state_dir.glob("tls-*")] == [renewed.pair]
        if not fuse.blown:
            assert allowed >= 8
            return
    raise AssertionError("it never came to an end")


def test_who_reads_the_enrolment_while_another_pair_is_put_in_force_gets_that(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir = joined(yard, 6).state_dir
    before = identity.read_record(state_dir)
    renewed = renew_by_hand(yard, state_dir)
    told = [before]
    read = identity.read_record
    monkeypatch.setattr(identity, "read_record", lambda folder: told.pop() if told else read(folder))
    assert Enrolment.load(state_dir) == renewed


def _power_cut(*_: object) -> None:
    raise PowerCut
