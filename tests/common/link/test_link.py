"""Against real brokers over TLS with client certificates."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable

import pytest

from argosy_common.clock import SystemClock
from argosy_common.errors import BrokerUnreachable, CertificateInvalid
from argosy_common.link import Delivery, Link, LinkSettings, TlsFiles, Will
from argosy_common.link.packets import publish_size
from argosy_server.broker import Broker
from tests.pki import Pki
from tests.proxy import Proxy
from tests.waiting import kill, until, up

MakeLink = Callable[..., Link]

UP = "argosy/v1/default/d/{}/up/evt"
DOWN = "argosy/v1/default/d/{}/dn/job"


class Inbox:
    """Collects deliveries."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def holds(self, count: int) -> bool:
        return len(self.deliveries) == count

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for delivery in self.deliveries]


def test_messages_go_both_ways_over_either_broker(broker: Broker, make_link: MakeLink) -> None:
    events, jobs = Inbox(), Inbox()
    coordinator, device = make_link(broker, "coordinator"), make_link(broker, "both-ways")
    coordinator.subscribe("argosy/v1/+/d/+/up/evt", events)
    device.subscribe(DOWN.format("both-ways"), jobs)
    up(coordinator)
    up(device)

    assert device.publish(UP.format("both-ways"), b"event")
    assert coordinator.publish(DOWN.format("both-ways"), b"job", expires_s=60)

    assert until(lambda: events.payloads == [b"event"] and jobs.payloads == [b"job"])
    assert events.deliveries[0].topic == UP.format("both-ways")
    assert device.stats().connects == 1
    assert device.stats().packets_in == device.stats().packets_out == 1
    assert device.stats().bytes_out == publish_size(UP.format("both-ways"), 5, qos=1)


def test_large_messages_arrive_whole_and_in_order(broker: Broker, make_link: MakeLink) -> None:
    inbox = Inbox()
    coordinator, device = make_link(broker, "coordinator"), make_link(broker, "large")
    coordinator.subscribe("argosy/v1/+/d/+/up/x/c0", inbox, qos=0)
    up(coordinator)
    up(device)
    chunks = [bytes([number]) * 262_144 for number in range(20)]
    for chunk in chunks:
        assert device.publish("argosy/v1/default/d/large/up/x/c0", chunk, qos=0)
    assert until(lambda: len(inbox.deliveries) == len(chunks))
    assert inbox.payloads == chunks


def test_an_idle_link_stays_up_because_its_watchdog_is_answered(broker: Broker, make_link: MakeLink) -> None:
    inbox, went_down = Inbox(), list[str]()
    link = make_link(broker, "idle", watchdog_s=0.1, keepalive_s=1)
    link.subscribe("argosy/v1/default/b/coord", inbox)
    link.on_down(went_down.append)
    coordinator = up(make_link(broker, "coordinator"))
    assert coordinator.publish("argosy/v1/default/b/coord", b"kept", retain=True)
    up(link)
    assert until(lambda: inbox.payloads == [b"kept"])
    assert not until(lambda: went_down, patience_s=2.5)
    assert link.connected
    assert inbox.payloads == [b"kept"]  # the question, a SUBSCRIBE, must not bring retained messages again
    assert coordinator.publish("argosy/v1/default/b/coord", b"", retain=True)


def test_nothing_is_published_before_the_start_and_after_the_stop(mosquitto: Broker, make_link: MakeLink) -> None:
    link = make_link(mosquitto, "early")
    assert not link.publish(UP.format("early"), b"too early")
    up(link)
    assert link.publish(UP.format("early"), b"now")
    link.stop()
    assert not link.connected
    assert not link.publish(UP.format("early"), b"too late")


def test_publish_says_false_while_the_broker_is_away(mosquitto: Broker, make_link: MakeLink, proxied: Proxy) -> None:
    link = up(make_link(mosquitto, "away", address=proxied.address))
    reasons: list[str] = []
    link.on_down(reasons.append)
    proxied.close()
    assert until(lambda: not link.connected)
    assert not link.publish(UP.format("away"), b"lost")
    assert until(lambda: isinstance(link.last_error, BrokerUnreachable))
    assert len(reasons) == 1


def test_a_message_larger_than_the_broker_takes_is_refused_here(mosquitto: Broker, make_link: MakeLink) -> None:
    link = up(make_link(mosquitto, "oversize", max_packet=2_000_000))  # Mosquitto says 1,100,000 in its CONNACK
    topic = UP.format("oversize")
    largest = 1_100_000 - publish_size(topic, 1_100_000, qos=1) + 1_100_000
    assert not link.publish(topic, bytes(largest + 1))
    went_down: list[str] = []
    link.on_down(went_down.append)
    inbox = Inbox()
    coordinator = make_link(mosquitto, "coordinator")
    coordinator.subscribe(topic, inbox)
    up(coordinator)
    assert link.publish(topic, bytes(largest))
    assert until(lambda: [len(payload) for payload in inbox.payloads] == [largest])
    assert not went_down


def test_our_own_limit_holds_where_the_broker_allows_more(mosquitto: Broker, make_link: MakeLink) -> None:
    link = up(make_link(mosquitto, "small", max_packet=1000))
    assert not link.publish(UP.format("small"), bytes(1000))
    assert link.publish(UP.format("small"), bytes(900))


def test_what_waits_to_be_sent_is_bounded(mosquitto: Broker, make_link: MakeLink, proxied: Proxy) -> None:
    link = up(make_link(mosquitto, "backlog", address=proxied.address, max_backlog=1_000_000))
    proxied.hush()
    taken = 0
    while taken < 1000 and link.publish(UP.format("backlog"), bytes(100_000)):
        taken += 1
    assert taken < 20
    proxied.flow()
    assert until(lambda: link.publish(UP.format("backlog"), bytes(100_000)))


def test_a_topic_with_a_wildcard_is_a_bug_and_raises(mosquitto: Broker, make_link: MakeLink) -> None:
    with pytest.raises(ValueError, match="wildcards"):
        up(make_link(mosquitto, "wild")).publish("argosy/+", b"")


def test_a_handler_that_raises_does_not_end_the_link(mosquitto: Broker, make_link: MakeLink) -> None:
    inbox = Inbox()

    def refuse(_delivery: Delivery) -> None:
        raise KeyError("a bug above")

    link = make_link(mosquitto, "raising")
    link.subscribe(DOWN.format("raising"), refuse, manual_ack=True)
    link.subscribe("argosy/v1/default/d/raising/dn/rpc", inbox)
    coordinator = make_link(mosquitto, "coordinator")
    up(link)
    up(coordinator)
    for _ in range(20):  # more than Receive Maximum: each must have been acknowledged
        assert coordinator.publish(DOWN.format("raising"), b"poison")
    assert coordinator.publish("argosy/v1/default/d/raising/dn/rpc", b"sound")
    assert until(lambda: inbox.payloads == [b"sound"])
    assert link.stats().packets_in == 21
    assert link.stats().connects == 1


def test_callbacks_that_raise_do_not_end_the_link(mosquitto: Broker, make_link: MakeLink, proxied: Proxy) -> None:
    def refuse(_what: object) -> None:
        raise KeyError("a bug above")

    link = make_link(mosquitto, "raising-callbacks", address=proxied.address)
    link.on_up(refuse)
    link.on_down(refuse)
    up(link)
    proxied.cut()
    assert until(lambda: link.stats().connects == 2 and link.connected)


def test_an_unacknowledged_job_is_delivered_again_and_an_acknowledged_one_is_not(
    mosquitto: Broker, make_link: MakeLink, proxied: Proxy
) -> None:
    jobs, events, sessions = Inbox(), Inbox(), list[bool]()
    device = make_link(mosquitto, "manual", address=proxied.address)
    device.subscribe(DOWN.format("manual"), jobs, manual_ack=True)
    device.on_up(sessions.append)
    coordinator = make_link(mosquitto, "coordinator")
    coordinator.subscribe(UP.format("manual"), events)
    up(coordinator)
    up(device)

    def settle(count: int) -> None:
        assert device.publish(UP.format("manual"), b"behind the acknowledgements")
        assert until(functools.partial(events.holds, count))

    for payload in (b"first", b"second"):
        assert coordinator.publish(DOWN.format("manual"), payload)
    assert until(functools.partial(jobs.holds, 2))
    jobs.deliveries[0].acknowledge()
    jobs.deliveries[0].acknowledge()  # twice is harmless
    settle(1)
    proxied.cut()
    assert until(functools.partial(jobs.holds, 3))
    assert until(lambda: sessions == [False, True])  # told on a thread of its own
    assert jobs.payloads == [b"first", b"second", b"second"]

    jobs.deliveries[1].acknowledge()  # of the old connection: does nothing, harms nothing
    jobs.deliveries[2].acknowledge()
    settle(2)
    proxied.cut()
    assert until(lambda: len(sessions) == 3)
    settle(3)
    assert len(jobs.deliveries) == 3


def test_an_unacknowledged_job_is_delivered_again_to_the_next_process(
    mosquitto: Broker, make_link: MakeLink, pki: Pki
) -> None:
    tls = pki.client("next-process")
    coordinator = up(make_link(mosquitto, "coordinator"))
    for expected in range(1, 3):
        jobs = Inbox()
        device = make_link(mosquitto, "next-process", tls=tls)
        device.subscribe(DOWN.format("next-process"), jobs, manual_ack=True)
        up(device)
        assert coordinator.publish(DOWN.format("next-process"), b"job")
        assert until(functools.partial(jobs.holds, expected))
        device.stop()


def test_the_link_returns_by_itself_to_a_broker_that_was_killed_and_kept_nothing(
    pki: Pki, make_link: MakeLink, own_mosquitto: Broker
) -> None:
    events, ups, downs = Inbox(), list[bool](), list[str]()
    coordinator, device = make_link(own_mosquitto, "coordinator"), make_link(own_mosquitto, "killed")
    coordinator.subscribe("argosy/v1/+/d/+/up/evt", events)
    device.on_up(ups.append)
    device.on_down(downs.append)
    up(coordinator)
    up(device)
    kill(own_mosquitto)
    assert until(lambda: coordinator.stats().connects == 2 and device.stats().connects == 2)
    assert until(lambda: device.connected and coordinator.connected)
    assert ups == [False, False]
    assert len(downs) == 1
    assert device.last_error is None
    assert device.publish(UP.format("killed"), b"after")
    assert until(lambda: events.payloads == [b"after"])


def test_a_link_connects_anew_when_it_is_asked_to_with_other_files_and_loses_nothing(
    mosquitto: Broker, make_link: MakeLink, pki: Pki
) -> None:
    coordinator, inbox, wills = up(make_link(mosquitto, "coordinator")), Inbox(), Inbox()
    coordinator.subscribe(UP.format("renewed"), wills)
    shown: list[TlsFiles] = []

    def files() -> TlsFiles:
        shown.append(pki.client("renewed"))
        return shown[-1]

    host, port = mosquitto.address
    settings = LinkSettings(host=host, port=port, client_id="renewed", tls=None, backoff_base_s=30.0)
    will = Will(UP.format("renewed"), b"gone", delay_s=0)
    device = Link(settings, clock=SystemClock(), rng=random.Random(1), will=lambda: will, tls=files)
    sessions: list[bool] = []
    device.on_up(sessions.append)
    device.subscribe(DOWN.format("renewed"), inbox)
    try:
        up(device)
        for count in range(1, 4):
            device.reconnect()
            assert coordinator.publish(DOWN.format("renewed"), b"in between")
            assert until(functools.partial(inbox.holds, count))
            assert until(functools.partial(_reconnected, device, count + 1))  # no pause, whatever the back-off is
        assert sessions == [False, True, True, True]
        assert len(shown) == 4
        assert not wills.payloads, "it said goodbye each time"
    finally:
        device.stop()


def test_a_line_that_works_between_its_cuts_is_taken_up_again_without_growing_pauses(
    mosquitto: Broker, make_link: MakeLink, proxied: Proxy
) -> None:
    inbox = Inbox()
    device = make_link(mosquitto, "cut-often", address=proxied.address, backoff_base_s=0.1)

    def take(delivery: Delivery) -> None:
        inbox(delivery)
        delivery.acknowledge()

    device.subscribe(DOWN.format("cut-often"), take)
    coordinator = up(make_link(mosquitto, "coordinator"))
    up(device)
    for count in range(1, 6):
        assert coordinator.publish(DOWN.format("cut-often"), b"%d" % count, qos=1)
        # one whose acknowledgement was cut off comes again
        assert until(lambda payload=b"%d" % count: payload in inbox.payloads)  # type: ignore[misc]  # bound at once
        proxied.cut()
        assert until(functools.partial(_reconnected, device, count + 1))
        assert device._backoff.failures <= 2


def _reconnected(link: Link, connects: int) -> bool:
    return link.stats().connects == connects and link.connected


def test_two_clients_of_one_name_throw_each_other_out_ever_more_rarely(
    mosquitto: Broker, make_link: MakeLink, pki: Pki
) -> None:
    tls = pki.client("twin")
    twins = [make_link(mosquitto, "twin", tls=tls, backoff_base_s=0.05) for _ in range(2)]
    for twin in twins:
        twin.start()
    assert until(lambda: all(twin._backoff.failures >= 3 for twin in twins))


def test_a_subscription_made_while_connected_works_at_once_and_after_a_reconnect(
    mosquitto: Broker, make_link: MakeLink, proxied: Proxy
) -> None:
    inbox = Inbox()
    device = up(make_link(mosquitto, "late", address=proxied.address, session_expiry_s=0))
    device.subscribe(DOWN.format("late"), inbox)
    coordinator = up(make_link(mosquitto, "coordinator"))
    assert until(lambda: coordinator.publish(DOWN.format("late"), b"1") and inbox.deliveries)
    proxied.cut()
    assert until(lambda: device.stats().connects == 2 and device.connected)
    inbox.deliveries.clear()
    assert coordinator.publish(DOWN.format("late"), b"2")
    assert until(lambda: inbox.payloads == [b"2"])


def test_the_first_callback_comes_when_subscriptions_already_work(mosquitto: Broker, make_link: MakeLink) -> None:
    inbox = Inbox()
    link = make_link(mosquitto, "coordinator")
    link.subscribe("argosy/v1/default/d/x/up/evt", inbox)

    def greet(_session_present: bool) -> None:
        assert link.publish("argosy/v1/default/d/x/up/evt", b"to myself")

    link.on_up(greet)
    up(link)
    assert until(lambda: inbox.payloads == [b"to myself"])


def test_handlers_may_publish(mosquitto: Broker, make_link: MakeLink) -> None:
    events = Inbox()
    device, coordinator = make_link(mosquitto, "echo"), make_link(mosquitto, "coordinator")

    def echo(delivery: Delivery) -> None:
        assert device.publish(UP.format("echo"), delivery.payload[::-1])

    device.subscribe(DOWN.format("echo"), echo)
    coordinator.subscribe(UP.format("echo"), events)
    up(device)
    up(coordinator)
    assert coordinator.publish(DOWN.format("echo"), b"abc")
    assert until(lambda: events.payloads == [b"cba"])


def test_a_clean_stop_sends_what_waits(mosquitto: Broker, make_link: MakeLink) -> None:
    inbox = Inbox()
    device, coordinator = make_link(mosquitto, "flush"), make_link(mosquitto, "coordinator")
    coordinator.subscribe(UP.format("flush"), inbox)
    up(coordinator)
    up(device)
    for number in range(50):
        assert device.publish(UP.format("flush"), bytes([number]) * 100_000)
    device.stop(10)
    device.stop()  # twice is harmless
    assert until(lambda: len(inbox.deliveries) == 50)


def test_a_loop_that_dies_is_noticed_and_started_again(
    mosquitto: Broker, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    inbox = Inbox()

    def die_once(delivery: Delivery) -> None:
        inbox(delivery)
        if len(inbox.deliveries) == 1:
            raise SystemExit  # no Exception: it ends the thread without a word

    device, coordinator = make_link(mosquitto, "dying"), make_link(mosquitto, "coordinator")
    device.subscribe(DOWN.format("dying"), die_once)
    downs: list[str] = []
    device.on_down(downs.append)
    up(coordinator)
    up(device)
    assert coordinator.publish(DOWN.format("dying"), b"deadly")
    assert until(lambda: device.stats().connects == 2 and device.connected)
    assert until(lambda: inbox.payloads == [b"deadly", b"deadly"])  # it was not acknowledged
    assert downs == ["the link's loop died"]


def test_a_broker_that_falls_silent_is_given_up(mosquitto: Broker, make_link: MakeLink, proxied: Proxy) -> None:
    link = make_link(mosquitto, "silent", address=proxied.address, watchdog_s=0.2, keepalive_s=1)
    downs: list[str] = []
    link.on_down(downs.append)
    up(link)
    proxied.hush()
    assert until(lambda: downs)
    proxied.flow()
    assert until(lambda: link.connected)


def test_a_server_that_never_answers_is_given_up(mosquitto: Broker, make_link: MakeLink, proxied: Proxy) -> None:
    proxied.hush()
    link = make_link(mosquitto, "mute", address=proxied.address, connect_timeout_s=0.5)
    link.start()
    assert until(lambda: isinstance(link.last_error, BrokerUnreachable))
    proxied.flow()
    assert link.wait_connected(20)
    assert link.last_error is None


def test_a_stop_while_nothing_answers_returns(mosquitto: Broker, make_link: MakeLink) -> None:
    link = make_link(mosquitto, "hopeless", address=("127.0.0.1", 1))
    link.start()
    assert until(lambda: isinstance(link.last_error, BrokerUnreachable))
    assert "refused" in str(link.last_error)
    link.stop()
    assert not [thread for thread in threading.enumerate() if thread is link._loop]


def test_a_broker_is_found_at_the_last_of_its_addresses_without_a_pause(mosquitto: Broker, make_link: MakeLink) -> None:
    host, port = mosquitto.address
    link = make_link(
        mosquitto,
        "elsewhere",
        host="name.invalid",
        elsewhere=(("127.0.0.1", 9), (host, port)),
        backoff_base_s=1000.0,
        backoff_cap_s=1000.0,
    )

    up(link)

    assert link.publish(UP.format("elsewhere"), b"event")


def test_addresses_that_stay_unreachable_are_told_once_each(
    mosquitto: Broker, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that is gone for days must not fill the journal of a board."""
    caplog.set_level("WARNING")
    link = make_link(mosquitto, "told", host="127.0.0.1", port=9, elsewhere=(("127.0.0.2", 9),), backoff_cap_s=0.06)
    link.start()
    assert until(lambda: link._backoff.failures > 4)
    link.stop()
    told = [record for record in caplog.records if "link.unreachable" in record.getMessage()]
    assert len(told) == 2


def test_missing_certificate_files_are_named(mosquitto: Broker, make_link: MakeLink, pki: Pki) -> None:
    broken = TlsFiles(pki.ca, pki.ca.with_name("absent.crt"), pki.ca.with_name("absent.key"))
    link = make_link(mosquitto, "nobody", tls=broken)
    link.start()
    assert until(lambda: isinstance(link.last_error, CertificateInvalid))
    assert "absent.crt" in str(link.last_error)


def test_replacing_the_files_changes_the_certificate_at_the_next_connection(
    mosquitto: Broker, make_link: MakeLink, proxied: Proxy, pki: Pki
) -> None:
    inbox = Inbox()
    files = pki.client("before")
    coordinator = make_link(mosquitto, "coordinator")
    coordinator.subscribe("argosy/v1/+/d/+/up/evt", inbox)
    up(coordinator)
    device = up(make_link(mosquitto, "before", tls=files, address=proxied.address))
    renewed = pki.client("after")
    files.key.write_bytes(renewed.key.read_bytes())
    files.cert.write_bytes(renewed.cert.read_bytes())
    proxied.cut()
    assert until(lambda: device.stats().connects == 2 and device.connected)
    assert device.publish(UP.format("before"), b"not mine any more")
    assert device.publish(UP.format("after"), b"mine now")
    assert until(lambda: inbox.payloads == [b"mine now"])


def test_a_broker_of_a_foreign_authority_is_not_trusted(mosquitto: Broker, make_link: MakeLink, pki: Pki) -> None:
    ours = pki.client("careful")
    foreign = Pki(pki.ca.parent / "foreign")
    link = make_link(mosquitto, "careful", tls=TlsFiles(foreign.ca, ours.cert, ours.key, ours.server_name))
    link.start()
    assert until(lambda: isinstance(link.last_error, BrokerUnreachable))
    assert "not to be trusted" in str(link.last_error)


def test_a_broker_with_another_name_is_not_trusted(mosquitto: Broker, make_link: MakeLink, pki: Pki) -> None:
    ours = pki.client("strict")
    link = make_link(mosquitto, "strict", tls=TlsFiles(ours.ca, ours.cert, ours.key, "somebody-else"))
    link.start()
    assert until(lambda: isinstance(link.last_error, BrokerUnreachable))
    assert not link.connected
