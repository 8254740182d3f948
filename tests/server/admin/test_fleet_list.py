"""The fleet list over the admin API, and `argosy fleet` as a process, with and without a coordinator."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from argosy_common import x509
from argosy_common.errors import AdminRequestInvalid, FleetListInvalid, FleetListOutdated
from argosy_common.secagg.fleet import MAX_BYTES, Member, sign, successor, verify
from argosy_server.api.server import AdminServer
from argosy_server.cli.client import AdminClient
from argosy_server.store import DeviceState
from tests.server.admin.conftest import Argosy
from tests.server.admin.coordinator_on_rows import NAMES, RowsCoordinator

OPERATOR = x509.generate_key()
CREATED = "2026-05-01T12:00:00Z"


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
    coordinator.store.devices.set_state("attic", DeviceState.REFUSED)
    shown = api.put("/fleet-list", sign(successor(None, CREATED, everybody), OPERATOR))
    assert [member["name"] for member in shown["list"]["members"] if not member["enrolled"]] == ["attic"]
    assert "attic" not in [member.name for member in members_of(api)]


# --- the commands ----------------------------------------------------------------------------------------------------


class Laptop:
    """The operator's machine: a folder with the key, and no coordinator."""

    def __init__(self, folder: Path, argosy: Argosy) -> None:
        self.folder = folder
        self._argosy = argosy
        self.key, self.public = folder / "operator.key", folder / "operator.pub"
        assert self.run("keygen", self.key).returncode == 0

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self._argosy("fleet", *map(str, words), ARGOSY_SOCKET=str(self.folder / "no.sock"))

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
    coordinator.store.devices.set_state("dock", DeviceState.REFUSED)
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


def test_every_verb_explains_itself_with_examples(argosy: Argosy) -> None:
    assert "fleet" in argosy("--help").stdout
    for verb in ("keygen", "draft", "sign", "install", "show", "verify"):
        assert f"argosy fleet {verb}" in argosy("fleet", verb, "--help").stdout
