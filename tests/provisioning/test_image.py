"""`argosy-provision image`: what it writes onto a card, and that a board boots from it into the fleet."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from argosy_common import x509
from argosy_common.enrolment_file import FILE, NOTE, PLACES, UNIT, EnrolmentFile
from argosy_common.errors import (
    ArgosyError,
    BootFileTaken,
    BootFolderInvalid,
    CardFull,
    CardReadOnly,
    CardTaken,
    GoldenImageUnclean,
    SettingsInvalid,
    TokenMalformed,
)
from argosy_provisioning.card import System, unit_text
from argosy_provisioning.cli import app
from tests.client import test_join as joining
from tests.client.yard import Yard, open_yard

ROOT = Path(__file__).parents[2]
SECRET = "A" * 32
TOKEN = f"01234567.{SECRET}"
PIN = "sha256:" + "0" * 64
URL = "https://10.0.0.5:8444"

IMAGERS = """\
#!/bin/bash

set +e

echo fleet-pi >/etc/hostname
rm -f /boot/firstrun.sh
sed -i 's| systemd.run.*||g' /boot/cmdline.txt
exit 0
"""
USER_DATA = "#cloud-config\nhostname: fleet-pi  # a comment\nruncmd:\n- [true]\n"
WORDS = "console=tty1 root=PARTUUID=4e639091-02 rootwait"


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A boot partition that either system could have."""
    folder = tmp_path / "bootfs"
    folder.mkdir()
    for name, text in {"config.txt": "", "cmdline.txt": f"{WORDS}\n", "meta-data": "", "user-data": USER_DATA}.items():
        (folder / name).write_text(text)
    return folder


def provision(card: Path, system: str, *words: str, typed: str | None = None, **options: str | None) -> Result:
    given = {"coordinator": URL, "pin": PIN, "token": TOKEN, **options}
    flags = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    done = CliRunner().invoke(app, ["image", str(card), "--for", system, *flags, *words], input=typed)
    assert SECRET not in done.output
    assert not isinstance(done.exception, ArgosyError) or SECRET not in done.exception.message
    return done


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def failed(done: Result) -> ArgosyError:
    assert isinstance(done.exception, ArgosyError), done.output
    return done.exception


# --- what is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", list(System))
def test_a_card_gets_the_enrolment_and_the_unit_and_the_same_again_changes_nothing(card: Path, system: str) -> None:
    done = provision(card, system, "--name", "pi-{serial}", "--site", "north")
    assert done.exit_code == 0, done.output
    wanted = EnrolmentFile.read(card / FILE)
    assert (wanted.url, wanted.token, wanted.pin, wanted.name, wanted.site) == (URL, TOKEN, PIN, "pi-{serial}", "north")
    assert stat.S_IMODE((card / FILE).stat().st_mode) == 0o600
    assert (card / UNIT).read_text() == unit_text()
    first = contents(card)
    assert isinstance(failed(provision(card, system)), CardTaken)
    assert contents(card) == first
    (card / NOTE).write_text("of a board that failed")
    assert provision(card, system, "--name", "pi-{serial}", "--site", "north", "--force").exit_code == 0
    assert contents(card) == first


@pytest.mark.parametrize("system", list(System))
def test_the_token_is_in_the_enrolment_file_only(card: Path, system: str) -> None:
    provision(card, system)
    assert [name for name, text in contents(card).items() if SECRET in text] == [FILE]


def test_a_card_without_a_script_gets_one_that_cleans_up_behind_itself(card: Path) -> None:
    provision(card, "raspberry-pi-os")
    line = (card / "cmdline.txt").read_text()
    assert line.startswith(f"{WORDS} systemd.run=/boot/firmware/firstrun.sh ")
    assert line.count("\n") == 1
    script = card / "firstrun.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    calls = run_script(script)
    assert f"systemctl enable {UNIT}" in calls
    assert (card / "cmdline.txt").read_text() == f"{WORDS}\n", "or the board would run it at each boot"
    assert not script.exists()


@pytest.mark.parametrize("script", [IMAGERS, IMAGERS.removeprefix("#!/bin/bash\n"), "#!/bin/bash"])
def test_the_imagers_script_keeps_all_its_lines_and_gets_ours_once(card: Path, script: str) -> None:
    (card / "firstrun.sh").write_text(script)
    hooked = f"{WORDS} systemd.run=/boot/firstrun.sh systemd.run_success_action=reboot\n"
    (card / "cmdline.txt").write_text(hooked)
    for _ in range(2):
        provision(card, "raspberry-pi-os", "--force")
        text = (card / "firstrun.sh").read_text()
        assert re.sub(r"# --- argosy: begin ---\n(.*\n)*# --- argosy: end ---\n", "", text).strip() == script.strip()
        assert text.count("argosy: begin") == 1
        assert (card / "cmdline.txt").read_text() == hooked
    assert f"systemctl enable {UNIT}" in run_script(card / "firstrun.sh")


def test_bookworms_correction_of_the_imagers_script_leaves_our_block(card: Path) -> None:
    """It drops all from the first line on that ends in the removal of the script, and puts its own end there."""
    (card / "firstrun.sh").write_text(IMAGERS)
    provision(card, "raspberry-pi-os")
    lines = (card / "firstrun.sh").read_text().splitlines()
    kept = lines[: next(n for n, line in enumerate(lines) if re.search(r"rm.*firstrun\.sh$", line))]
    assert f"  systemctl enable {UNIT} ||" in kept
    assert "# --- argosy: end ---" in kept


def test_cloud_init_keeps_its_user_data_and_gets_a_script_beside_it(card: Path) -> None:
    provision(card, "cloud-init")
    assert (card / "user-data").read_text() == USER_DATA
    script = card / "vendor-data"
    assert script.read_text().startswith("#!/bin/sh\n"), "cloud-init tells scripts by it"
    assert f"systemctl start --no-block {UNIT}" in run_script(script)


@pytest.mark.parametrize("packaged", [True, False])
def test_a_unit_that_a_package_brought_is_used_instead(card: Path, packaged: bool) -> None:
    provision(card, "raspberry-pi-os")
    calls = run_script(card / "firstrun.sh", known=packaged)
    assert any(call.startswith("install ") for call in calls) is not packaged
    assert f"systemctl enable {UNIT}" in calls


def run_script(script: Path, *, known: bool = False) -> list[str]:
    """Run a first-boot script with commands that write down how they were called; return the calls."""
    for shell in ("sh", "bash"):
        subprocess.run([shell, "-n", str(script)], check=True, timeout=20)
    tools, calls = script.parents[1] / "tools", script.parents[1] / "calls"
    tools.mkdir(exist_ok=True)
    for name in ("systemctl", "install"):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\necho "{name} $*" >>{calls}\n[ "$1" != cat ] || exit {0 if known else 1}\n')
        tool.chmod(0o755)
    shown = script.read_text().replace("/etc/hostname", str(script.parents[1] / "hostname"))
    script.write_text(shown.replace("/boot/firstrun.sh", str(script)).replace("/boot/cmdline.txt", os.devnull))
    path = f"{tools}:{os.environ['PATH']}"
    subprocess.run(["/bin/sh", str(script)], env={"PATH": path}, check=False, timeout=20)
    return calls.read_text().splitlines()


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "name"),
    [("raspberry-pi-os", "cmdline.txt"), ("raspberry-pi-os", "config.txt"), ("cloud-init", "meta-data")],
)
def test_a_folder_that_is_no_boot_partition_is_left_alone(card: Path, system: str, name: str) -> None:
    (card / name).unlink()
    before = contents(card)
    error = failed(provision(card, system))
    assert isinstance(error, BootFolderInvalid)
    assert name in error.message
    assert contents(card) == before


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"token": "abc"}, TokenMalformed),
        ({"coordinator": "http://10.0.0.5:8444"}, SettingsInvalid),
        ({"coordinator": "https://10.0.0.5:0"}, SettingsInvalid),
        ({"coordinator": "https://10.0.0.5:8444#x"}, SettingsInvalid),
        ({"coordinator": "https://h:99999"}, SettingsInvalid),
        ({"pin": "sha1:00"}, SettingsInvalid),
        ({"name": "pi-{board}"}, SettingsInvalid),
        ({"shard": "a b"}, SettingsInvalid),
    ],
)
def test_a_slip_in_the_command_is_named_before_anything_is_written(
    card: Path, options: dict[str, str], kind: type[ArgosyError]
) -> None:
    before = contents(card)
    error = failed(provision(card, "cloud-init", **options))
    assert isinstance(error, kind)
    assert isinstance(error, TokenMalformed) or f"--{next(iter(options))}" in error.message
    assert contents(card) == before


def test_a_private_key_does_not_get_onto_a_card(card: Path, tmp_path: Path) -> None:
    key = tmp_path / "operator.key"
    key.write_bytes(x509.key_pem(x509.generate_key()))
    error = failed(provision(card, "cloud-init", **{"operator-key": str(key)}))
    assert "--operator-key" in error.message
    assert "private" in error.message
    assert not (card / FILE).exists()


@pytest.mark.parametrize(
    ("system", "name", "text"),
    [
        ("raspberry-pi-os", "cmdline.txt", "quiet systemd.run=/boot/other.sh\n"),
        ("cloud-init", "vendor-data", "#cloud-config\npackages: [vim]\n"),
    ],
)
def test_what_runs_at_the_first_boot_already_is_not_replaced(card: Path, system: str, name: str, text: str) -> None:
    (card / name).write_text(text)
    before = contents(card)
    error = failed(provision(card, system, "--force"))
    assert isinstance(error, BootFileTaken)
    assert contents(card) == before


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, CardFull), (errno.EROFS, CardReadOnly), (errno.EACCES, CardReadOnly)]
)
def test_a_card_that_cannot_be_written_is_named_and_holds_no_secret(
    card: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[ArgosyError]
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    assert isinstance(failed(provision(card, "raspberry-pi-os")), kind)
    assert not (card / FILE).exists()
    assert not [path for path in card.iterdir() if SECRET in path.read_text()]


# --- what is said --------------------------------------------------------------------------------------------------


def ticket(**more: Any) -> str:  # noqa: ANN401  (of JSON)
    return json.dumps({"id": "01234567", "url": URL, "token": TOKEN, "pin": PIN, "command": f"… {TOKEN}", **more})


def test_a_ticket_keeps_the_token_off_the_command_line_and_tells_how_long_it_is_good(card: Path) -> None:
    text = ticket(uses=1, expires_at="2026-11-26T22:00:00+00:00")
    without = {"coordinator": None, "pin": None, "token": None}
    done = provision(card, "cloud-init", "--ticket", "-", typed=text, **without)
    assert done.exit_code == 0, done.output
    assert "until 2026-11-26T22:00:00+00:00" in done.output
    assert EnrolmentFile.read(card / FILE).token == TOKEN
    assert provision(card, "cloud-init", "--ticket", "-", typed=text).exit_code == 2, "either the one or the other"
    done = provision(card, "cloud-init", "--ticket", "-", typed=SECRET, **without)
    assert isinstance(failed(done), SettingsInvalid)


def test_a_token_for_many_boards_is_warned_of(card: Path) -> None:
    without = {"coordinator": None, "pin": None, "token": None}
    done = provision(card, "cloud-init", "--ticket", "-", typed=ticket(uses=20), **without)
    assert "lets 20 boards in" in done.output


def test_the_next_steps_are_told_for_people_and_programs(card: Path) -> None:
    assert f"umount {card}" in provision(card, "cloud-init").output
    told = json.loads(provision(card, "cloud-init", "--force", "--json").output)
    assert told["files"] == ["vendor-data", UNIT, FILE]
    assert (told["token_id"], told["expires_at"]) == ("01234567", None)
    assert told["next"]


# --- images that are to be copied ----------------------------------------------------------------------------------


def test_what_is_each_boards_own_is_found_in_an_image(tmp_path: Path) -> None:
    files = ["etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "var/lib/argosy-device/identity.key", f"boot/{FILE}"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("its own")
    done = CliRunner().invoke(app, ["image", "--check-golden", str(tmp_path)])
    error = failed(done)
    assert isinstance(error, GoldenImageUnclean)
    marked = [line for line in done.output.splitlines() if line.startswith("✗")]
    assert len(marked) == len(files)
    assert "truncate -s 0 etc/machine-id" in done.output
    (tmp_path / files[0]).write_text("")
    for name in files[1:]:
        (tmp_path / name).unlink()
    done = CliRunner().invoke(app, ["image", "--check-golden", str(tmp_path), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["clean"] is True


# --- the unit ------------------------------------------------------------------------------------------------------


def test_the_unit_is_one_and_looks_where_the_command_looks() -> None:
    assert (ROOT / "packaging/systemd" / UNIT).read_text() == unit_text()
    looked = re.findall(r"^ConditionPathExists=\|/(.*)$", unit_text(), re.MULTILINE)
    assert looked == [f"{place}/{FILE}" for place in PLACES]


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT
    unit.write_text(unit_text().replace("/usr/bin/argosy-device", "/bin/true"))
    try:
        done = subprocess.run(
            ["systemd-analyze", "verify", str(unit)],  # noqa: S607  (wherever the distribution has it)
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not installed")
    assert done.returncode == 0, done.stderr
    assert UNIT not in done.stderr


# --- from the bench into the fleet ---------------------------------------------------------------------------------


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yield from open_yard(tmp_path, datetime.now(UTC))


@pytest.mark.parametrize("system", list(System))
def test_a_board_with_such_a_card_is_in_the_fleet_after_its_first_boot(yard: Yard, system: str) -> None:
    root = yard.folder / "root"
    card, state = root / PLACES[0], root / "var/lib/argosy-device"
    card.mkdir(parents=True)
    for name in ("config.txt", "cmdline.txt", "meta-data", "user-data"):
        (card / name).touch()
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text("Serial\t\t: 10000000abcdef01\n")
    operator = yard.folder / "operator.pub"
    operator.write_bytes(x509.public_pem(joining.OPERATOR))
    token = yard.token()
    made = {"url": yard.server.url, "token": token, "pin": yard.ca.pin, "uses": 1, "expires_at": "soon"}
    bench = [sys.executable, "-m", "argosy_provisioning.cli", "image", str(card), "--for", system, "--ticket", "-"]
    bench += ["--name", "pi-{serial}", "--operator-key", str(operator)]
    done = subprocess.run(bench, input=json.dumps(made), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    board = [sys.executable, "-m", "argosy_client.cli", "first-boot", "--root", str(root), "--state-dir", str(state)]
    done = subprocess.run(board, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    row = yard.store.devices.get("pi-10000000abcdef01")
    assert row.device in done.stdout
    assert (state / "operator.pub").read_bytes() == operator.read_bytes()
    assert not (card / FILE).exists()
    assert token[9:] not in done.stdout + done.stderr
