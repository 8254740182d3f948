"""The device's settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from argosy_client.settings import default_state_dir, load_settings, remember_name, shown_name
from argosy_common.errors import SettingsInvalid


def test_defaults_suit_a_board() -> None:
    settings = load_settings(None)
    assert settings.heartbeat_s == 10.0
    assert settings.resend_s == 6.0
    assert settings.death_delay_s == 30
    assert settings.node_config == {}
    assert shown_name(settings)


def test_a_file_a_variable_and_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "device.toml"
    file.write_text(
        'name = "roof"\nheartbeat_s = 3.0\n[worker]\nmemory_mb = 512\n[node_config]\npartition = 4\nkind = "pi"\n'
    )
    monkeypatch.setenv("ARGOSY_DEVICE_WORKER__TIME_S", "30")
    settings = load_settings(file, state_dir=tmp_path, heartbeat_s=None)
    assert (settings.name, settings.heartbeat_s, settings.state_dir) == ("roof", 3.0, tmp_path)
    assert (settings.worker.memory_mb, settings.worker.time_s) == (512, 30.0)
    assert settings.node_config == {"partition": 4, "kind": "pi"}


@pytest.mark.parametrize(
    "text",
    ["heartbeat_s = 0", "nmae = 'x'", "[worker]\nmemory = 5", "cache_mb = 'much'", "[node_config]\na = [1]", "= 3"],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "device.toml"
    file.write_text(text)
    with pytest.raises(SettingsInvalid):
        load_settings(file)


def test_the_state_of_a_user_is_in_its_xdg_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / "argosy-device"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / ".local/state/argosy-device"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_state_dir() == Path("/var/lib/argosy-device")


def test_the_name_given_at_join_stays_until_another_is_set(tmp_path: Path) -> None:
    unnamed = load_settings(None, state_dir=tmp_path)
    host = shown_name(unnamed)
    remember_name(unnamed)
    assert shown_name(unnamed) == host
    remember_name(load_settings(None, state_dir=tmp_path, name="roof"))
    assert shown_name(unnamed) == "roof"
    assert shown_name(load_settings(None, state_dir=tmp_path, name="cellar")) == "cellar"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("heartbeet_s = 1", "heartbeet_s cannot be used: there is no such setting"),
        (
            '[node_config]\ndata = ["a"]',
            "node_config.data cannot be used: it must be a number, a text",
        ),
        ('site = "north hall"', "site cannot be used: it must be letters without accents, digits, '.', '_' and '-'"),
        ('site = "a/b"\nshard = "3"', "site cannot be used"),
        (f'site = "hall"\nshard = "{"x" * 65}"', "shard cannot be used: it must be letters"),
        ('metered = "sometimes"', "metered cannot be used"),
    ],
)
def test_a_slip_is_told_in_plain_words(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "device.toml"
    file.write_text(text)
    with pytest.raises(SettingsInvalid, match=re.escape(said)):
        load_settings(file)


def test_a_settings_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"--config cannot be used: .*nope\.toml: no such file"):
        load_settings(tmp_path / "nope.toml")


def test_a_board_may_be_told_where_it_stands_and_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "device.toml"
    file.write_text(f'site = "Hall_2.b"\nshard = "{"x" * 64}"\nmetered = false\n[node_config]\ndata = "/srv"\n')
    settings = load_settings(file)
    assert settings.metered is False
    assert settings.app_config == {"site": "Hall_2.b", "shard": "x" * 64, "data": "/srv"}


def test_an_app_is_told_of_no_site_where_there_is_none_and_its_own_words_go_first(tmp_path: Path) -> None:
    assert load_settings(None).app_config == {}
    file = tmp_path / "device.toml"
    file.write_text('site = "hall"\nshard = "3"\n[node_config]\nshard = 7\n')
    assert load_settings(file).app_config == {"site": "hall", "shard": 7}
    file.write_text('shard = "3"\n')
    assert load_settings(file).app_config == {"shard": "3"}, "of the site that it enrolled at"


def test_a_shard_may_come_from_another_place_than_its_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "device.toml"
    file.write_text('site = "hall"\n')
    monkeypatch.setenv("ARGOSY_DEVICE_SHARD", "3")
    monkeypatch.setenv("ARGOSY_DEVICE_METERED", "true")
    settings = load_settings(file)
    assert (settings.site, settings.shard, settings.metered) == ("hall", "3", True)
