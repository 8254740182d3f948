"""A board whose clock is off connects all the same: to it, the broker's certificate ended long ago."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from argosy_common import x509
from argosy_common.clock import SystemClock
from argosy_common.link import Link
from argosy_server.broker import open_broker
from argosy_server.settings import BrokerTable
from tests.pki import Pki
from tests.waiting import up


def test_a_brokers_certificate_that_is_out_of_date_by_the_boards_clock_is_good(
    pki: Pki, tmp_path: Path, make_link: Callable[..., Link]
) -> None:
    """It is the same whether the certificate is of 1990 or the clock says 2060; at 1970 ours are good already."""
    files = pki.server(datetime(1990, 1, 1, tzinfo=UTC))
    assert x509.load_certificate(files.cert).not_valid_after_utc.year == 1992
    assert x509.load_certificate(files.cert).not_valid_before_utc == x509.EPOCH
    table = BrokerTable.model_validate({"kind": "mosquitto", "host": "127.0.0.1", "port": 0})
    broker = open_broker(table, files, tmp_path, clock=SystemClock(), rng=random.Random(1))
    broker.start()
    try:
        assert up(make_link(broker, "late")).publish("argosy/v1/default/d/late/up/hb", b"")
    finally:
        broker.stop()
