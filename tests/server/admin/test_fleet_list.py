"""The fleet list over the admin API, and `argosy fleet` as a process, with and without a coordinator."""

from __future__ import annotations

import json
import stat
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from argosy_common import x509
from argosy_common.blobs import BlobRef
from argosy_common.errors import AdminRequestInvalid, FleetListInvalid, FleetListOutdated, OverrideInvalid
from argosy_common.secagg import override
from argosy_common.secagg.fleet import MAX_BYTES, Member, sign, successor, verify
from argosy_common.secure_ledger import Attempt
from argosy_server.api.server import AdminServer
from argosy_server.cli.client import AdminClient
from argosy_server.store import RunStatus
from tests.server.admin.conftest import Argosy
from tests.server.admin.coordinator_on_rows import NAMES, RowsCoordinator

OPERATOR = x509.generate_key()
CREATED = "2026-05-01T12:00:00Z"
UNDECIDED = Attempt(sid=b"u" * 32, attempt=0, members=tuple(bytes([number]) * 32 for number in range(5)))


def members_of(api: AdminClient) -> list[Member]:
    """Return the enrolled devices, as a draft has them."""
    rows = api.get("/fleet-list")["devices"]
    return [Member(bytes.fromhex(row["fingerprint"]), row["name"]) for row in rows if row["enrolled"]]


# --- the admin API ---------------------------------------------------------------------------------------------------


def test_without_a_list_the_devices_are_shown_with_their_identities(api: AdminClient) -> None:
    found = api.get("/fleet-list")
    assert found["list"] is None
    assert [row["name"] for row in found["devices"]] == NAMES
    assert not any(row["listed"] for row in found["devices"])


def test_an_installed_list_is_shown_and_audited(api: AdminClient, coordinator: RowsCoordinator) -> None:
    attic, *_ = members_of(api)
    stranger = Member(bytes(32), "stranger")
    data = sign(successor(None, CREATED, [attic, stranger]), OPERATOR)
    shown = api.put("/fleet-list", data)
    assert shown == api.get("/fleet-list")
    assert shown["list"]["version"] == 1
    assert shown["list"]["operator"] == x509.fingerprint(OPERATOR.public_key()).hex()
    assert [(member["name"], member["enrolled"]) for member in shown["list"]["members"]] == [
        ("attic", True),
        ("stranger", False),
    ]
    assert [row["name"] for row in shown["devices"] if row["listed"]] == ["attic"]
    assert coordinator.fleet_lists.current() == data
    entry = api.get("/audit")["entries"][-1]
    assert (entry["action"], entry["subject"], entry["detail"]["devices"]) == ("fleet.install", "version 1", "2")


def test_a_refused_list_is_named_and_not_audited(api: AdminClient) -> None:
    with pytest.raises(FleetListInvalid):
        api.put("/fleet-list", b"{}")
    with pytest.raises(AdminRequestInvalid, match="at most"):
        api.put("/fleet-list", b" " * (MAX_BYTES + 1))
    api.put("/fleet-list", sign(successor(None, CREATED, []), OPERATOR))
    with pytest.raises(FleetListOutdated):
        api.put("/fleet-list", sign(successor(None, CREATED, members_of(api)), OPERATOR))
    assert [entry["action"] for entry in api.get("/audit")["entries"]] == ["fleet.install"]


def test_a_device_that_was_shut_out_counts_as_not_enrolled(api: AdminClient, coordinator: RowsCoordinator) -> None:
    everybody = members_of(api)
    coordinator.store.devices.decide("attic", "revoke", "test")
    shown = api.put("/fleet-list", sign(successor(None, CREATED, everybody), OPERATOR))
    assert [member["name"] for member in shown["list"]["members"] if not member["enrolled"]] == ["attic"]
    assert "attic" not in [member.name for member in members_of(api)]


def test_undecided_attempts_are_shown_and_an_override_is_audited(
    api: AdminClient, coordinator: RowsCoordinator
) -> None:
    coordinator.ledger.write(b"i" * 32, UNDECIDED)
    assert api.get("/fleet-list/undecided")["operator"] is None
    signed = override.sign(UNDECIDED.sid, OPERATOR)
    with pytest.raises(OverrideInvalid, match="no list of an operator's"):
        api.put("/fleet-list/override", signed)
    api.put("/fleet-list", sign(successor(None, CREATED, []), OPERATOR))
    with pytest.raises(AdminRequestInvalid, match="at most"):
        api.put("/fleet-list/override", b" " * (override.MOST_BYTES + 1))
    assert api.put("/fleet-list/override", signed) == {"sid": UNDECIDED.sid.hex(), "devices": 5}
    shown = api.get("/fleet-list/undecided")
    assert shown["operator"] == x509.fingerprint(OPERATOR.public_key()).hex()
    (attempt,) = shown["attempts"]
    assert (attempt["sid"], attempt["devices"], attempt["overridden"]) == (UNDECIDED.sid.hex(), 5, True)
    assert not attempt["may_be_under_way"]
    entry = api.get("/audit")["entries"][-1]
    assert (entry["action"], entry["subject"]) == ("fleet.override", f"attempt {UNDECIDED.sid.hex()[:16]}")
    assert entry["detail"] == {"devices": "5", "sid": UNDECIDED.sid.hex()}


def test_an_attempt_that_may_be_of_a_run_under_way_is_marked(api: AdminClient, coordinator: RowsCoordinator) -> None:
    """Its round may come to a sum yet."""
    coordinator.ledger.write(b"i" * 32, UNDECIDED.changed(root=bytes(32), at=int(time.time())))
    plain = coordinator.add_run()
    coordinator.store.runs.update(plain, started_at=datetime.now(UTC) - timedelta(hours=1))
    (before,) = api.get("/fleet-list/undecided")["attempts"]
    secure = coordinator.start_run(BlobRef(bytes(32), 1), None, {}, {"secure": True, "codec": {}})
    coordinator.store.runs.update(secure, status=RunStatus.RUNNING, started_at=datetime.now(UTC) - timedelta(hours=1))
    (after,) = api.get("/fleet-list/undecided")["attempts"]
    assert (before["may_be_under_way"], after["may_be_under_way"]) == (False, True)
    assert after["handed_over"]


# --- the commands ----------------------------------------------------------------------------------------------------


class Laptop:
    """The operator's machine: a folder with the key, and no coordinator."""

    def __init__(self, folder: Path, argosy: Argosy) -> None:
        self.folder = folder
        self._argosy = argosy
        self.key, self.public = folder / "operator.key", folder / "operator.pub"
        assert self.run("keygen", self.key).returncode == 0

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        wide = {"COLUMNS": "300"}  # no path is broken over lines
        return self._argosy("fleet", *map(str, words), ARGOSY_SOCKET=str(self.folder / "no.sock"), **wide)

    def file(self, name: str, content: str) -> Path:
        (self.folder / name).write_text(content)
        return self.folder / name


@pytest.fixture
def laptop(tmp_path: Path, argosy: Argosy) -> Laptop:
    return Laptop(tmp_path, argosy)


def test_a_new_key_is_private_and_never_written_over_another(laptop: Laptop) -> None:
    assert stat.S_IMODE(laptop.key.stat().st_mode) == 0o600
    key = laptop.key.read_bytes()
    again = laptop.run("keygen", laptop.key)
    assert again.returncode == 2
    assert "there already" in again.stderr
    assert laptop.key.read_bytes() == key
    made = laptop.run("keygen", laptop.folder / "spare.key", "--json")
    told = json.loads(made.stdout)
    assert told["fingerprint"] == x509.fingerprint(x509.load_public_key(Path(told["public"]))).hex()
    assert "off the coordinator" in made.stderr


def test_a_list_goes_from_the_coordinator_to_the_operator_and_back(
    argosy: Argosy, laptop: Laptop, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    trusted = argosy("fleet", "show")
    assert (trusted.returncode, trusted.stdout) == (0, "No operator's key: coordinator trusted at enrolment.\n")
    draft = argosy("fleet", "draft")
    assert "Version 1 with 4 devices" in draft.stderr
    signed = laptop.run("sign", laptop.file("draft.json", draft.stdout), "--key", laptop.key, "--yes")
    assert signed.returncode == 0, signed.stderr
    assert [name for name in NAMES if f"  {name}\n" in signed.stderr] == NAMES
    file = laptop.file("fleet.json", signed.stdout)
    checked = laptop.run("verify", file, "--operator", laptop.public)
    assert "with 4 devices, signed by the operator's key" in checked.stdout
    installed = argosy("fleet", "install", str(file))
    assert "Version 1 is in force: 4 devices" in installed.stderr
    shown = argosy("fleet", "show").stdout
    assert "\x1b" not in shown
    assert shown.count("✓ listed") == 4
    assert json.loads(argosy("fleet", "show", "--json").stdout)["list"]["version"] == 1
    data = coordinator.fleet_lists.current()
    assert data is not None
    found = verify(data, x509.load_public_key(laptop.public), where="")
    assert [member.name for member in found.members] == NAMES


def test_what_changes_is_shown_before_it_is_signed(
    argosy: Argosy, laptop: Laptop, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    first, second = laptop.folder / "1.json", laptop.folder / "2.json"
    laptop.run("sign", laptop.file("d1", argosy("fleet", "draft").stdout), "--key", laptop.key, "-y", "-o", first)
    argosy("fleet", "install", str(first))
    coordinator.add_device("evil", 0x2000)
    coordinator.store.devices.decide("dock", "revoke", "test")
    assert "✗ enrolled, not listed" in argosy("fleet", "show").stdout
    draft = argosy("fleet", "draft").stdout.replace('"bench"', '"garden"')
    words = ("sign", laptop.file("d2", draft), "--key", laptop.key, "--previous", first)
    done = laptop.run(*words, "--yes", "--output", second)
    assert done.returncode == 0, done.stderr
    assert "Version 2: 4 devices, 1 added, 1 removed" in done.stderr
    changes = [line.split()[0] + line.split("  ")[-1] for line in done.stderr.splitlines() if line.startswith("  ")]
    assert changes == ["+evil", "-dock", "~bench is now called garden"]
    follows = laptop.run("verify", second, "--operator", laptop.public, "--previous", first)
    assert follows.returncode == 0
    assert "1 added, 1 removed" in follows.stdout
    assert argosy("fleet", "install", str(second)).returncode == 0


def test_nothing_is_signed_unasked(argosy: Argosy, laptop: Laptop, server: AdminServer) -> None:
    draft = laptop.file("draft", argosy("fleet", "draft").stdout)
    done = laptop.run("sign", draft, "--key", laptop.key, "--output", laptop.folder / "fleet.json")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert "attic" in done.stderr
    assert not (laptop.folder / "fleet.json").exists()


def test_a_draft_that_does_not_follow_the_previous_list_is_not_signed(
    argosy: Argosy, laptop: Laptop, server: AdminServer
) -> None:
    draft = laptop.file("draft", argosy("fleet", "draft").stdout)
    first = laptop.folder / "1.json"
    laptop.run("sign", draft, "--key", laptop.key, "-y", "-o", first)
    for edited in (draft.read_text(), draft.read_text().replace("null", f'"{"0" * 64}"').replace(": 1,", ": 2,")):
        words = ("sign", laptop.file("edited", edited), "--key", laptop.key, "--previous", first, "-y")
        done = laptop.run(*words)
        assert (done.returncode, done.stdout) == (FleetListOutdated.exit_code, "")


def test_files_that_are_mixed_up_are_named(argosy: Argosy, laptop: Laptop, server: AdminServer) -> None:
    draft = laptop.file("draft", argosy("fleet", "draft").stdout)
    for words, code, named in (
        (("sign", draft, "--key", laptop.public, "-y"), 2, "operator.pub"),
        (("sign", draft, "--key", draft, "-y"), 2, "draft"),
        (("sign", laptop.key, "--key", laptop.key, "-y"), FleetListInvalid.exit_code, "operator.key"),
        (("verify", draft, "--operator", laptop.public), FleetListInvalid.exit_code, "argosy fleet sign"),
        (("verify", draft, "--operator", laptop.key), 2, "private key"),
        (("install", draft), 16, "no such socket"),
    ):
        done = laptop.run(*words)
        assert done.returncode == code
        assert named in done.stderr
        assert done.stdout == ""


def test_installing_tells_who_is_missing_on_either_side(
    argosy: Argosy, laptop: Laptop, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    draft = argosy("fleet", "draft").stdout
    told = json.loads(draft)
    told["members"][0] = {"fingerprint": "ab" * 32, "name": "stranger"}
    file = laptop.folder / "fleet.json"
    laptop.run("sign", laptop.file("draft", json.dumps(told)), "--key", laptop.key, "-y", "-o", file)
    installed = argosy("fleet", "install", str(file))
    assert installed.returncode == 0
    assert "Listed and not enrolled here: stranger." in installed.stderr
    assert "Enrolled and not listed, so refused by their peers: attic." in installed.stderr
    shown = argosy("fleet", "show").stdout
    assert "○ listed, not enrolled here" in shown
    assert "✗ enrolled, not listed" in shown


def test_an_override_goes_from_the_laptop_to_the_coordinator(
    argosy: Argosy, laptop: Laptop, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    """What it risks is said before it is signed."""
    sid = UNDECIDED.sid.hex()
    assert argosy("fleet", "undecided").stdout == "Of every secure round it is known how it ended.\n"
    coordinator.ledger.write(b"i" * 32, UNDECIDED)
    assert "has no operator's key, so none can be overridden" in argosy("fleet", "undecided").stderr
    shown = argosy("fleet", "undecided")
    assert f"{sid}\n  " in shown.stdout
    assert "5 devices: broken off before a set was handed over" in shown.stdout
    unasked = laptop.run("override", sid, "--key", laptop.key)
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert "give --yes" in unasked.stderr
    assert laptop.run("override", sid[:-1], "--key", laptop.key, "-y").returncode == 2
    signed = laptop.run("override", sid, "--key", laptop.key, "--yes")
    assert signed.returncode == 0, signed.stderr
    assert "somebody may know its sum" in signed.stderr
    file = str(laptop.file("override.json", signed.stdout))
    assert argosy("fleet", "install", file).returncode == OverrideInvalid.exit_code
    fleet = laptop.folder / "fleet.json"
    laptop.run("sign", laptop.file("d", argosy("fleet", "draft").stdout), "--key", laptop.key, "-y", "-o", fleet)
    argosy("fleet", "install", str(fleet))
    installed = argosy("fleet", "install", file)
    assert installed.returncode == 0, installed.stderr
    assert "counts as given up" in installed.stderr
    assert "overridden; the next try is yet to come" in argosy("fleet", "undecided").stdout
    assert json.loads(argosy("fleet", "undecided", "--json").stdout)["attempts"][0]["overridden"]
    assert coordinator.ledger.override(UNDECIDED.sid)


def test_every_verb_explains_itself_with_examples(argosy: Argosy) -> None:
    assert "fleet" in argosy("--help").stdout
    for verb in ("keygen", "draft", "sign", "install", "show", "verify", "undecided", "override"):
        assert f"argosy fleet {verb}" in argosy("fleet", verb, "--help").stdout
