from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from argosy_common.errors import SettingsInvalid
from argosy_common.settings import Settings


class Worker(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    memory_mb: Annotated[int, Field(gt=0)] = 1024
    time_s: float = 600.0


class Board(Settings):
    model_config = SettingsConfigDict(env_prefix="ARGOSY_BOARD_")
    name: str = "board"
    heartbeat_s: Annotated[float, Field(gt=0)] = 10.0
    worker: Worker = Worker()
    node_config: Annotated[dict[str, str | int], Field(default_factory=dict)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "board.toml"
    path.write_text('name = "from file"\nheartbeat_s = 7\n[worker]\nmemory_mb = 256\n[node_config]\nperson = 3\n')
    return path


def test_flags_beat_the_environment_which_beats_the_file_which_beats_defaults(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARGOSY_BOARD_HEARTBEAT_S", "5")
    monkeypatch.setenv("ARGOSY_BOARD_WORKER__TIME_S", "9.5")
    board = Board.load(file, name="from flag", worker=None)
    assert board == Board.model_construct(
        name="from flag", heartbeat_s=5.0, worker=Worker(memory_mb=256, time_s=9.5), node_config={"person": 3}
    )
    assert Board.load().worker.memory_mb == 1024


@pytest.mark.parametrize(
    ("text", "name", "why"),
    [
        ("heartbeat_s = 0", "heartbeat_s", "greater than 0"),
        ('heartbeat_s = "fast"', "heartbeat_s", "number"),
        ("[worker]\nmemory_gb = 2", "worker.memory_gb", "no such setting"),
        ("nmae = 'x'", "nmae", "no such setting"),
        ("name = ", "board.toml", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_key_and_path(tmp_path: Path, text: str, name: str, why: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(SettingsInvalid) as caught:
        Board.load(path)
    assert name in caught.value.message
    assert why in caught.value.message
    assert str(path) in caught.value.remedy_text


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_is_missing_or_is_no_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "board.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsInvalid, match=r"board\.toml"):
        Board.load(path)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ARGOSY_BOARD_HEARTBEAT_S", "-1"),
        ("ARGOSY_BOARD_WORKER__MEMORY_MB", "lots"),
        ("ARGOSY_BOARD_WORKER", "{not json"),
        ("ARGOSY_BOARD_HEARTBEET", "1"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsInvalid) as caught:
        Board.load(file)
    assert "environment" in caught.value.remedy_text


def test_a_wrong_flag_is_named_as_a_flag(file: Path) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        Board.load(file, heartbeat_s=-1.0)
    assert "--heartbeat-s" in caught.value.remedy_text


def test_the_variable_that_names_the_file_is_no_setting(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGOSY_BOARD_CONFIG", str(file))
    assert Board.load().name == "board"
