"""App directories, bundles and run configurations."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argosy_common import bundle
from argosy_common.bundle import AppManifest, fuse_config, pack, unpack
from argosy_common.errors import AppBundleInvalid, AppDirectoryInvalid, RunConfigInvalid, StorageFailed

PYPROJECT = """
[project]
name = "har"
version = "1.2.3"

[tool.flwr.app]
publisher = "someone"

[tool.flwr.app.components]
serverapp = "har.server_app:app"
clientapp = "har.client_app:app"

[tool.flwr.app.config]
num-server-rounds = 3
fraction = 0.5
fast = true
name = "x"
[tool.flwr.app.config.optimizer]
lr = 0.1
[tool.flwr.app.config.optimizer.adam]
beta = 1

[tool.argosy]
min_devices = 3
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    root = tmp_path / "app"
    (root / "har").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (root / "har" / "client_app.py").write_text("app = 1\n", encoding="utf-8")
    (root / "har" / "ünï.txt").write_text("ü", encoding="utf-8")
    return root


def test_the_manifest_is_what_pyproject_says(app: Path) -> None:
    assert AppManifest.read(app) == AppManifest(
        name="har",
        version="1.2.3",
        server_app="har.server_app:app",
        client_app="har.client_app:app",
        config={
            "num-server-rounds": 3,
            "fraction": 0.5,
            "fast": True,
            "name": "x",
            "optimizer.lr": 0.1,
            "optimizer.adam.beta": 1,
        },
        argosy={"min_devices": 3},
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no serverapp"),
        ("[tool.flwr.app.components]\nserverapp='a:b'", "has no clientapp"),
        ("[tool.flwr.app.components]\nserverapp='a'\nclientapp='a:b'", 'not "module:attribute"'),
        ("[tool.flwr.app.components]\nserverapp=3\nclientapp='a:b'", "serverapp is 3"),
        ("[tool.flwr]\napp=3", "is not a table"),
        ("[tool.flwr.app]\ncomponents={serverapp='a:b',clientapp='a:b'}\nconfig={x=[1]}", "configuration x"),
        ("not toml", "pyproject.toml"),
    ],
)
def test_what_is_not_an_app_is_told_why(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    with pytest.raises(AppDirectoryInvalid, match=why):
        AppManifest.read(tmp_path)
    with pytest.raises(AppDirectoryInvalid, match=why):
        pack(tmp_path)


def test_a_directory_without_pyproject_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(AppDirectoryInvalid, match=r"has no pyproject\.toml"):
        AppManifest.read(tmp_path)
    with pytest.raises(AppDirectoryInvalid, match=r"has no pyproject\.toml"):
        AppManifest.read(tmp_path / "nowhere")


def test_a_bundle_unpacks_to_the_apps_files_and_no_others(app: Path, tmp_path: Path) -> None:
    for extra in (".git/config", ".venv/x", "__pycache__/a.py", "har/b.pyc", "har/.hidden", "env/pyvenv.cfg", "env/x"):
        (app / extra).parent.mkdir(parents=True, exist_ok=True)
        (app / extra).write_text("no", encoding="utf-8")
    unpack(stored(tmp_path, pack(app)), tmp_path / "out")
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"pyproject.toml", "har/client_app.py", "har/ünï.txt"}
    assert AppManifest.read(tmp_path / "out") == AppManifest.read(app)


def test_equal_files_give_equal_bundles_whenever_they_were_written(app: Path) -> None:
    first = pack(app)
    os.utime(app / "har" / "client_app.py", (1, 1))
    (app / "har" / "client_app.py").chmod(0o600)
    assert pack(app) == first
    (app / "har" / "client_app.py").write_text("app = 2\n", encoding="utf-8")
    assert pack(app) != first


def test_an_app_that_is_too_large_names_its_largest_files(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (app / "data.bin").write_bytes(os.urandom(2_000_000))
    monkeypatch.setattr(bundle, "MAX_BUNDLE", 1_000_000)
    with pytest.raises(AppDirectoryInvalid, match=r"data\.bin \(2\.0 MB\)"):
        pack(app)
    monkeypatch.setattr(bundle, "MAX_UNPACKED", 1_000_000)
    with pytest.raises(AppDirectoryInvalid, match=r"data\.bin \(2\.0 MB\)"):
        pack(app)


def test_links_do_not_travel(app: Path) -> None:
    (app / "data").symlink_to("/etc")
    with pytest.raises(AppDirectoryInvalid, match="data is a link"):
        pack(app)


def test_unpacking_again_is_free(app: Path, tmp_path: Path) -> None:
    zipped = stored(tmp_path, pack(app))
    unpack(zipped, tmp_path / "out")
    zipped.unlink()
    unpack(zipped, tmp_path / "out")


# --- hostile bundles ------------------------------------------------------------------------------------------------


def stored(folder: Path, data: bytes) -> Path:
    path = folder / ("ab" * 32)
    path.write_bytes(data)
    return path


def zipped(*names: str, mode: int = stat.S_IFREG | 0o644, data: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return buffer.getvalue()


def refused(tmp_path: Path, data: bytes) -> str:
    before = stored(tmp_path, data)
    with pytest.raises(AppBundleInvalid) as caught:
        unpack(before, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {before.name}
    return caught.value.message


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "../x", "a/../../x", "a//x", "./x", "a/", "C:x", "a\\..\\x", "x" * 600, "x" * 250, "a/" + "é" * 150],
)
def test_paths_that_a_bundle_of_ours_never_has_are_refused(tmp_path: Path, name: str) -> None:
    assert "abababababab" in refused(tmp_path, zipped(name))


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755, stat.S_IFIFO, stat.S_IFCHR, 0])
def test_only_plain_files_are_taken(tmp_path: Path, mode: int) -> None:
    assert "not a plain file" in refused(tmp_path, zipped("x", mode=mode))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("x", "x"), ("x", "x/y"), ("x/y", "x")])
def test_one_name_is_one_file(tmp_path: Path, names: tuple[str, ...]) -> None:
    refused(tmp_path, zipped(*names))


def test_bombs_are_refused_by_what_they_claim_and_by_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = zipped("x", data=bytes(2_000_000))
    monkeypatch.setattr(bundle, "MAX_UNPACKED", 1_000_000)
    assert "unpacked" in refused(tmp_path, bomb)
    lying = bomb.replace((2_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != bomb
    refused(tmp_path, lying)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    assert "at most 2000" in refused(tmp_path, zipped(*(f"f{i}" for i in range(2001))))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_damaged_bundles_are_refused_by_name_or_unpack_inside(app: Path, tmp_path: Path, data: st.DataObject) -> None:
    sound = pack(app)
    changed = bytearray(sound[: data.draw(st.integers(0, len(sound)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    target = tmp_path / "inner" / f"out{data.draw(st.integers(0, 10**9))}"
    try:
        unpack(stored(tmp_path, bytes(changed)), target)
    except AppBundleInvalid:
        assert not target.exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"app", "inner", "ab" * 32}


def test_a_missing_bundle_is_a_storage_failure(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        unpack(tmp_path / "none", tmp_path / "out")


# --- configuration --------------------------------------------------------------------------------------------------

DEFAULTS: dict[str, bool | int | float | str] = {"rounds": 3, "lr": 0.1, "fast": True, "name": "x"}


@pytest.mark.parametrize(
    ("key", "given_", "fused"),
    [
        ("rounds", "7", 7),
        ("rounds", 7.0, 7),
        ("lr", "1e-3", 0.001),
        ("lr", 2, 2.0),
        ("fast", "False", False),
        ("fast", "1", True),
        ("fast", False, False),
        ("name", "7", "7"),
        ("name", 7, "7"),
    ],
)
def test_overrides_take_the_type_of_the_default(key: str, given_: bool | float | str, fused: object) -> None:
    result = fuse_config(DEFAULTS, {key: given_})[key]
    assert result == fused
    assert type(result) is type(DEFAULTS[key])


@pytest.mark.parametrize(
    ("key", "given_"),
    [("rounds", "x"), ("rounds", 1.5), ("rounds", True), ("rounds", "1" * 30), ("lr", "fast"), ("fast", "maybe")],
)
def test_values_of_another_type_are_refused_by_name(key: str, given_: bool | float | str) -> None:
    with pytest.raises(RunConfigInvalid, match=key):
        fuse_config(DEFAULTS, {key: given_})


def test_an_unknown_key_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(RunConfigInvalid) as caught:
        fuse_config(DEFAULTS, {"round": "3"})
    assert "fast, lr, name, rounds" in caught.value.remedy_text


def test_what_is_not_overridden_stays() -> None:
    assert fuse_config(DEFAULTS, {}) == DEFAULTS


def test_every_folder_of_an_unpacked_app_is_synced_before_it_gets_its_name(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut an app is whole or absent; whoever finds its folder does not look inside."""
    synced: list[str] = []

    def sync(path: Path) -> None:
        synced.append(path.name if (tmp_path / "out").exists() else f"before: {path.name}")

    monkeypatch.setattr("argosy_common.bundle.sync_folder", sync)
    unpack(stored(tmp_path, pack(app)), tmp_path / "out")
    assert "before: har" in synced
    assert synced[-1] == tmp_path.name
