"""Which packages there are, and what lies in each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = Path("usr/lib/argosy")
"""A virtual environment over the system's Python: whatever is started with its interpreter finds Argosy."""
UNITS = Path("usr/lib/systemd/system")
KILOBYTE, MEGABYTE = 1_000, 1_000_000


@dataclass(frozen=True)
class Service:
    """A daemon: its user, and what the package's scripts have to know of it.

    Attributes:
        units: those that are enabled.
        starts: those that are started at once, and anew at an upgrade.
        folders: of root, made at the installation and purged with the state.
    """

    user: str
    state: str
    settings: str
    mode: str
    units: tuple[str, ...]
    starts: tuple[str, ...]
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Package:
    """One package.

    Attributes:
        summary: its first line of description.
        depends: what it needs; `{version}` is its own version, `{runtime}` that of the libraries, and `{python}` and
            `{next}` are the range of Pythons.
        code: Python packages, or parts of them, by their place in the source.
        excluded: places below those that another package has.
        commands: programs in /usr/bin, each with the function that it calls.
        files: further files, by their place in the source, with their place in the system.
        wheels: the groups of requirements in `pyproject.toml` whose wheels it holds, for its own architecture.
        besides: further groups of requirements whose wheels it leaves to the packages it depends on.
        limit: bytes that it may have.
    """

    name: str
    summary: str
    depends: tuple[str, ...]
    recommends: tuple[str, ...] = ()
    suggests: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    commands: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    wheels: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()
    service: Service | None = None
    limit: int = 200 * KILOBYTE


_OURS = "argosy-common (= {version})"
_FLOWER = "argosy-flower (= {version})"
_PYTHON = ("python3 (>= {python})", "python3 (<< {next})")
_BASE = ("", "server", "client", "provisioning")
"""The requirements of all that runs without torch; "" are those that each part has."""
_HOSTS_APPS = tuple(
    f"common/argosy_common/{part}"
    for part in ("flower", "secagg", "codec", "straggler", "coding", "field.py", "prg.py")
)

CODE = (
    Package(
        "argosy-common",
        "what both ends of Argosy share",
        depends=(*_PYTHON, "argosy-runtime (>= {runtime})"),
        code=("common/argosy_common",),
        excluded=_HOSTS_APPS,
    ),
    Package(
        "argosy-flower",
        "what runs Flower apps: codecs, secure aggregation, stragglers",
        depends=(_OURS,),
        code=_HOSTS_APPS,
    ),
    Package(
        "argosy-coordinator",
        "coordinator of a fleet of boards that learn together",
        depends=(_OURS, _FLOWER, "python3", "mosquitto", "python3-systemd", "systemd"),
        suggests=("argosy-inference", "argosy-torch"),
        code=("server/argosy_server",),
        commands={
            "argosy": "argosy_server.cli.main:main",
            "argosy-coordinator": "argosy_server.cli.coordinator:main",
        },
        files={
            "packaging/systemd/argosy-coordinator.service": f"{UNITS}/argosy-coordinator.service",
            "packaging/systemd/sysusers/argosy-coordinator.conf": "usr/lib/sysusers.d/argosy-coordinator.conf",
            "packaging/config/coordinator.toml": "usr/share/argosy/coordinator.toml",
            "packaging/config/argosy.bash-completion": "usr/share/bash-completion/completions/argosy",
        },
        service=Service(
            "argosy",
            "/var/lib/argosy",
            "coordinator.toml",
            "640",
            units=("argosy-coordinator.service",),
            starts=("argosy-coordinator.service",),
        ),
    ),
    Package(
        "argosy-device",
        "device daemon: lets this board take part in federated learning",
        depends=(_OURS, _FLOWER, "python3", "python3-systemd", "systemd"),
        recommends=("argosy-inference",),
        suggests=("argosy-torch",),
        code=("client/argosy_client",),
        commands={"argosy-device": "argosy_client.cli:main"},
        files={
            "packaging/systemd/argosy-device.service": f"{UNITS}/argosy-device.service",
            "packaging/systemd/argosy-first-boot.service": f"{UNITS}/argosy-first-boot.service",
            "packaging/systemd/argosy-device-upgrade.path": f"{UNITS}/argosy-device-upgrade.path",
            "packaging/systemd/argosy-device-upgrade.service": f"{UNITS}/argosy-device-upgrade.service",
            "packaging/systemd/hardware": "usr/share/doc/argosy-device/hardware",
            "packaging/systemd/sysusers/argosy-device.conf": "usr/lib/sysusers.d/argosy-device.conf",
            "packaging/config/device.toml": "usr/share/argosy/device.toml",
        },
        service=Service(
            "argosy-device",
            "/var/lib/argosy-device",
            "device.toml",
            "644",
            units=("argosy-device.service", "argosy-first-boot.service", "argosy-device-upgrade.path"),
            starts=("argosy-device.service", "argosy-device-upgrade.path"),
            folders=("/var/lib/argosy-device-upgrade",),
        ),
    ),
    Package(
        "argosy-provisioning",
        "enrolment station for boards, and preparation of their cards",
        depends=(_OURS, "python3"),
        code=("provisioning/argosy_provisioning",),
        commands={"argosy-provision": "argosy_provisioning.cli:main"},
    ),
)
RUNTIME = Package(
    "argosy-runtime",
    "Python libraries that Argosy needs, at tested versions",
    depends=(*_PYTHON, "libc6 (>= 2.28)", "libstdc++6"),
    wheels=_BASE,
    limit=40 * MEGABYTE,
)
INFERENCE = Package(
    "argosy-inference",
    "ONNX Runtime for Argosy: models served on this board",
    depends=("argosy-runtime (= {version})",),
    wheels=("inference",),
    besides=_BASE,
    limit=40 * MEGABYTE,
)
TORCH = Package(
    "argosy-torch",
    "PyTorch for Argosy: apps that train with it, models exported from it",
    depends=("argosy-runtime (= {version})",),
    wheels=("torch", "export"),
    besides=_BASE,
    limit=400 * MEGABYTE,
)
WHEELS = {"runtime": (RUNTIME, INFERENCE), "torch": (TORCH,)}

UNWANTED = frozenset({"iotcore", "uv", "uvloop", "httptools", "watchfiles", "websockets"})
"""Wheels that are asked for and never loaded: Mosquitto is the broker here, Flower's own installer of apps is not used,
and our servers take the plain event loop. Together half of the megabytes."""
