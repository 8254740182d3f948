"""A board in a folder: real apt and dpkg with a root of their own, a repository of tiny packages, and a service manager
of a few lines of shell, whose daemon is well unless its version says `bad`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from argosy_client.upgrading.program import Program
from argosy_client.upgrading.steps import INBOX, RECORD, REQUEST, Record, Request

NAMES = ("argosy-common", "argosy-flower", "argosy-device")
LIBRARIES = ("argosy-runtime", "argosy-inference")
TOOLS = ("apt-get", "dpkg", "dpkg-deb", "dpkg-query")

SYSTEMCTL = """#!/bin/sh
cd {here}
case "$1" in
is-active) cat active ;;
show) cat invocation ;;
restart)
    invocation=$(($(cat invocation) + 1))
    echo $invocation >invocation
    case "$(dpkg-query --show --showformat='${{Version}}' argosy-device)" in
    *bad*) echo activating >active ;;
    *) echo active >active; echo "{{\\"invocation\\": \\"$invocation\\"}}" >{inbox}/healthy.json ;;
    esac ;;
esac
"""


def why_not() -> str:
    """Say what this machine lacks for it; nothing if it can."""
    if os.geteuid() != 0:
        return "dpkg needs root, in a folder too"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"there is no {', '.join(missing)} here" if missing else ""


def index(repository: Path) -> None:
    """Make a folder of packages a repository for apt."""
    entries = []
    for deb in sorted(repository.glob("*.deb")):
        control = subprocess.check_output(["dpkg-deb", "--field", str(deb)], text=True)  # noqa: S607
        data = deb.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        entries.append(f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {digest}\n")
    (repository / "Packages").write_text("\n".join(entries))


class Hours:
    """Time that passes by being slept."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class AptBoard:
    """The board; `program` is one run of what root runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self.state, self.root_folder = folder / "state", folder / "root-state"
        self.settings = folder / "device.toml"
        self._system = folder / "system"
        for each in ("var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/apt/lists/partial", "etc/apt"):
            (self._system / each).mkdir(parents=True)
        for each in ("var/cache/apt/archives/partial", "etc/apt/preferences.d"):
            (self._system / each).mkdir(parents=True)
        (self._system / "var/lib/dpkg/status").touch()
        (self._system / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:{self.repository} ./\n")
        for path in (self.repository, self.root_folder, self.inbox, self.bin):
            path.mkdir(parents=True)
        self.settings.write_text("[upgrade]\nallowed = true\n")
        self._write_tools()

    @property
    def inbox(self) -> Path:
        return self.state / INBOX

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def record(self) -> Record | None:
        path = self.root_folder / RECORD
        return Record.parse(path.read_bytes()) if path.exists() else None

    def ask(self, rollout: int, version: str, *, back: bool = False) -> None:
        (self.inbox / REQUEST).write_bytes(Request(rollout, version, back).pack())

    def run(self) -> int:
        """Run what root runs, in time that does not pass."""
        hours = Hours()
        program = Program(
            state=self.state,
            folder=self.root_folder,
            settings=self.settings,
            sleep=hours.sleep,
            monotonic=lambda: hours.now,
        )
        return program.run()

    def installed(self) -> set[str]:
        """The versions of our packages that are installed; one, if all is well."""
        shown = "${db:Status-Status} ${Version}\n"
        done = subprocess.run(
            [self.bin / "dpkg-query", "--show", f"--showformat={shown}", "argosy-*"],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line.split() for line in done.stdout.splitlines()]
        assert all(line[0] == "installed" for line in lines), done.stdout
        return {line[1] for line in lines}

    # --- packages

    def publish(self, *versions: str, names: tuple[str, ...] = NAMES, script: str = "") -> None:
        """Put versions into the repository; with a script that cannot run here, they cannot be configured."""
        for version in versions:
            for name in names:
                self._build(name, version, script, names)
        index(self.repository)

    def withdraw(self, version: str) -> None:
        """Take a version out of the repository."""
        for deb in self.repository.glob(f"*_{version}_all.deb"):
            deb.unlink()
        index(self.repository)

    def install(self, version: str, names: tuple[str, ...] = NAMES) -> None:
        """Install a version as a person would, and start the daemon."""
        debs = [str(self.repository / f"{name}_{version}_all.deb") for name in names]
        subprocess.run([self.bin / "dpkg", "--install", *debs], check=True, capture_output=True)
        subprocess.run([self.bin / "systemctl", "restart"], check=True, env=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}

    def _build(self, name: str, version: str, script: str, names: tuple[str, ...]) -> None:
        root = self.folder / "build"
        shutil.rmtree(root, ignore_errors=True)
        (root / "DEBIAN").mkdir(parents=True)
        (root / "usr/share" / name).mkdir(parents=True)
        (root / "usr/share" / name / "version").write_text(version)
        needs = {
            "argosy-runtime": "",
            "argosy-inference": f"argosy-runtime (= {version})",
            "argosy-common": f"argosy-runtime (>= {version})" if LIBRARIES[0] in names else "",
            "argosy-flower": f"argosy-common (= {version})",
        }
        depends = needs.get(name, f"argosy-common (= {version}), argosy-flower (= {version})")
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a test <a@test>\n"
        control += f"Depends: {depends}\n" if depends else ""
        (root / "DEBIAN/control").write_text(f"{control}Description: a test\n")
        if script and name == "argosy-device":
            (root / "DEBIAN/postinst").write_text(script)
            (root / "DEBIAN/postinst").chmod(0o755)
        deb = self.repository / f"{name}_{version}_all.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(deb)]
        subprocess.run(command, check=True, capture_output=True)

    def _write_tools(self) -> None:
        root = self._system
        apt = f"-o Dir={root} -o Dir::State::status={root}/var/lib/dpkg/status -o Dir::Bin::dpkg={self.bin}/dpkg"
        tools = {
            "apt-get": f"{apt} -o APT::Sandbox::User=root -o Debug::NoLocking=true -o Dir::Log=/dev",
            "dpkg": f"--root={root}",
            "dpkg-query": f"--admindir={root}/var/lib/dpkg",
        }
        for name, words in tools.items():
            self._write_tool(name, f'#!/bin/sh\nexec {shutil.which(name)} {words} "$@"\n')
        self._write_tool("systemctl", SYSTEMCTL.format(here=self.folder, inbox=self.inbox))
        (self.folder / "invocation").write_text("0")
        (self.folder / "active").write_text("inactive")

    def _write_tool(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)
