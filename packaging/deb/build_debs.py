"""Builds the Debian packages, for every architecture on any one: nothing of them is run.

    python packaging/deb/build_debs.py                  the code, and its libraries for amd64 and arm64
    python packaging/deb/build_debs.py code             the code alone, in seconds
    python packaging/deb/build_debs.py torch --arch arm64

Each package is a folder that is filled as `contents.py` says and packed by dpkg-deb. Its times are those of the last
commit, so that one commit gives one package. Prints the sizes; ends with 1 if one is larger than it may be.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from email.utils import formatdate
from pathlib import Path

import wheels
from contents import CODE, HOME, ROOT, WHEELS, Package

MAINTAINER = "Argosy developers <argosy@localhost>"
TIGHT = ("-Zxz", "-z9", "-Sextreme")
QUICK = ("-Zzstd", "-z15")
"""For libraries: a tenth larger and unpacked in a fraction of the time, on a board too."""
SCRIPTS = Path(__file__).parent / "scripts"
DESCRIPTION = "Argosy runs federated learning on real boards: Flower apps over MQTT, on devices that reboot."


class Build:
    """Builds packages of one version into one folder."""

    def __init__(self, out: Path, *, version: str, python: str) -> None:
        self._out = out
        self._version = version
        self._python = python
        self._epoch = int(_last_commit("%ct") or 0)
        self._libraries = _last_commit("%cd", "constraints.txt", "packaging/deb") or version
        self._site = HOME / "lib" / f"python{python}" / "site-packages"

    def build(self, package: Package, arch: str) -> Path:
        """Build one package; return its file."""
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "root"
            self._fill(package, arch, root)
            self._describe(package, arch, root)
            _settle_modes(root)
            deb = self._out / f"{package.name}_{self._version_of(package)}_{arch}.deb"
            how = TIGHT if arch == "all" else QUICK
            command = ["dpkg-deb", "--root-owner-group", *how, "--build", str(root), str(deb)]
            environment = {**os.environ, "SOURCE_DATE_EPOCH": str(self._epoch)}
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return deb

    def _version_of(self, package: Package) -> str:
        """Libraries have the time of their last change as version: new code alone makes no board fetch them again."""
        return self._libraries if package.wheels else self._version

    # --- what lies in it -----------------------------------------------------------------------------------------

    def _fill(self, package: Package, arch: str, root: Path) -> None:
        site = root / self._site
        excluded = {ROOT / each for each in package.excluded}
        for each in package.code:
            source = ROOT / each
            _copy(source, site / Path(*Path(each).parts[1:]), excluded)
        for name, function in package.commands.items():
            _write(root / "usr/bin" / name, _command(function), mode=0o755)
        for each, place in package.files.items():
            _copy(ROOT / each, root / place)
        if package.wheels:
            wheels.install(package, arch, self._python, site)
            _strip(site)
        if package.name == "argosy-common":
            self._make_environment(root)

    def _make_environment(self, root: Path) -> None:
        """Make the virtual environment, and tell Python's own register of what is installed about us."""
        home = root / HOME
        _write(home / "pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = true\n")
        (home / "bin").mkdir()
        (home / "bin/python3").symlink_to(f"/usr/bin/python{self._python}")
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        about = root / self._site / f"argosy-{project['version']}.dist-info"
        _write(about / "METADATA", f"Metadata-Version: 2.1\nName: argosy\nVersion: {project['version']}\n")
        _write(about / "INSTALLER", "dpkg\n")
        groups = {"console_scripts": project["scripts"], **project["entry-points"]}
        lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
        _write(about / "entry_points.txt", "\n".join(lines))

    # --- what is said of it --------------------------------------------------------------------------------------

    def _describe(self, package: Package, arch: str, root: Path) -> None:
        major, minor = self._python.split(".")
        version = self._version_of(package)
        runtime = self._libraries
        facts = {"version": version, "runtime": runtime, "python": self._python, "next": f"{major}.{int(minor) + 1}"}
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // 1024
        fields = {
            "Package": package.name,
            "Version": version,
            "Architecture": arch,
            "Maintainer": MAINTAINER,
            "Installed-Size": str(size),
            "Section": "science",
            "Priority": "optional",
            "Depends": ", ".join(package.depends).format(**facts),
            "Recommends": ", ".join(package.recommends),
            "Suggests": ", ".join(package.suggests),
            "Description": f"{package.summary}\n {DESCRIPTION}",
        }
        control = "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
        _write(root / "DEBIAN/control", control)
        self._add_scripts(package, root)
        doc = root / "usr/share/doc" / package.name
        _write(doc / "copyright", _copyright())
        when = formatdate(self._epoch)
        change = f"{package.name} ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n"
        packed = gzip.compress(f"{change} -- {MAINTAINER}  {when}\n".encode(), mtime=0)
        (doc / "changelog.gz").write_bytes(packed)

    def _add_scripts(self, package: Package, root: Path) -> None:
        kind = "python" if package.service is None else "service"
        service = package.service
        words = {"package": package.name}
        if service is not None:
            words |= {
                "user": service.user,
                "state": service.state,
                "settings": service.settings,
                "mode": service.mode,
                "units": " ".join(service.units),
                "starts": " ".join(service.starts),
                "folders": " ".join(service.folders),
            }
        for script in sorted(SCRIPTS.glob(f"{kind}.*")):
            text = script.read_text()
            for name, value in words.items():
                text = text.replace(f"@{name}@", value)
            _write(root / "DEBIAN" / script.suffix[1:], text, mode=0o755)


def _last_commit(form: str, *paths: str) -> str:
    """Return the time of the last commit that changed `paths`, in a form of `git log`; nothing outside a checkout."""
    command = ["git", "log", "-1", f"--format={form}", "--date=format:%Y.%m.%d.%H%M", "--", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _copy(source: Path, target: Path, excluded: set[Path] = frozenset()) -> None:  # type: ignore[assignment]
    """Copy a file or a folder, without what Python compiled there and without what is `excluded`."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return
    for each in sorted(source.iterdir()):
        if each.name != "__pycache__" and each not in excluded:
            _copy(each, target / each.name, excluded)


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _command(function: str) -> str:
    module, name = function.split(":")
    return f"#!/{HOME}/bin/python3 -P\nfrom {module} import {name}\n\n{name}()\n"


def _strip(site: Path) -> None:
    """Take out of unpacked wheels what no program of ours runs: their commands, and the tests of numpy and others."""
    (site / ".lock").unlink(missing_ok=True)  # uv's own
    for folder in [site / "bin", *(each for each in site.rglob("tests") if each.is_dir())]:
        shutil.rmtree(folder, ignore_errors=True)


def _settle_modes(root: Path) -> None:
    """Let everybody read what only root may write, whatever umask this was built under; few files are programs."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            program = path.stat().st_mode & 0o100 and path.parent.name in ("bin", "DEBIAN")
            path.chmod(0o755 if path.is_dir() or program else 0o644)


def _copyright() -> str:
    return (
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        "Upstream-Name: argosy\n\n"
        "Files: *\nCopyright: Argosy developers\nLicense: Apache-2.0\n"
        " On Debian systems the licence is in /usr/share/common-licenses/Apache-2.0.\n"
        " Bundled libraries have theirs beside them, in *.dist-info.\n"
    )


def main() -> int:
    """Build what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description="Build Argosy's Debian packages.")
    parser.add_argument(
        "what", nargs="*", default=["code", "runtime"], help="code, runtime, torch; the first two if absent"
    )
    parser.add_argument("--arch", action="append", choices=sorted(wheels.MACHINES), help="of libraries; all if absent")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder that gets the packages")
    parser.add_argument("--version", help="the packages' version; that of pyproject.toml if absent")
    parser.add_argument("--python", default="3.11", help="the Python of the boards' system: 3.11 in Debian bookworm")
    given = parser.parse_args()
    if unknown := set(given.what) - {"code", *WHEELS}:
        parser.error(f"there is no {', '.join(sorted(unknown))}: code, {', '.join(WHEELS)}")
    version = given.version or tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    given.out.mkdir(parents=True, exist_ok=True)
    build = Build(given.out, version=version, python=given.python)
    wanted = [(package, "all") for package in CODE if "code" in given.what]
    archs = given.arch or sorted(wheels.MACHINES)
    wanted += [(each, arch) for what in given.what for each in WHEELS.get(what, ()) for arch in archs]
    too_large = False
    for package, arch in wanted:
        deb = build.build(package, arch)
        size = deb.stat().st_size
        over = size > package.limit
        too_large |= over
        print(f"{deb.name:<48} {size / 1000:>10,.0f} kB{f'  larger than {package.limit // 1000:,} kB' if over else ''}")
    return int(too_large)


if __name__ == "__main__":
    sys.exit(main())
