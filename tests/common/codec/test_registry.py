from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from argosy_common.codec.registry import OURS, get_codec, known
from argosy_common.errors import CodecUnknown

ROOT = Path(__file__).parents[3]

THIRD_PARTY = """
import numpy as np
from argosy_common.codec.base import Codec

class Zeros(Codec):
    kind = "zeros"
    name = property(lambda self: "zeros")

    @classmethod
    def parse(cls, parameter):
        if parameter:
            raise ValueError("it takes nothing")
        return cls()

    def encode(self, values, rng):
        return b""

    def decode(self, payload, size):
        yield np.zeros(size, np.float32)
"""

ENTRY_POINTS = """[argosy.codecs]
zeros = zeros_codec:Zeros
broken = no_such_module:Codec
raises = raising_codec:Codec
plain = json:JSONDecoder
eden = zeros_codec:Zeros
"""

ASK = """
import json, sys
from argosy_common.codec.registry import get_codec, known
from argosy_common.errors import CodecUnknown
told = {"known": known(), "imported": [name for name in ("zeros_codec", "raising_codec") if name in sys.modules]}
for name in ("zeros", "zeros:3", "broken", "raises", "plain", "eden:2"):
    try:
        told[name] = type(get_codec(name)).__module__
    except CodecUnknown as error:
        told[name] = error.facts["why"]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a process says in whose path a distribution lies that declares codecs, good ones and others."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "zeros_codec.py").write_text(THIRD_PARTY)
    (folder / "raising_codec.py").write_text("raise RuntimeError('no compiler')")
    metadata = folder / "zeros_codec-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: zeros-codec\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{ASK}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_a_package_adds_a_codec_by_its_entry_point(told: dict[str, object]) -> None:
    assert told["zeros"] == "zeros_codec"
    assert told["zeros:3"] == "it takes nothing"


def test_a_package_that_does_not_work_is_told_only_when_it_is_asked_for(told: dict[str, object]) -> None:
    assert told["known"] == [*known(), "broken", "plain", "raises", "zeros"]
    assert told["imported"] == []
    assert "no_such_module" in str(told["broken"])
    assert "no compiler" in str(told["raises"])
    assert "no Codec" in str(told["plain"])


def test_a_package_cannot_take_the_place_of_one_of_ours(told: dict[str, object]) -> None:
    assert told["eden:2"] == "argosy_common.codec.eden"


def test_the_table_and_the_entry_points_say_the_same() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["argosy.codecs"]
    assert declared == OURS


@pytest.mark.parametrize(
    "name", ["", "gzip", "eden", "eden:", "eden:9", "none:1", "topk", "topk:2", "ring:12", "EDEN:2"]
)
def test_an_unknown_name_is_told_with_why_and_what_there_is(name: str) -> None:
    with pytest.raises(CodecUnknown) as caught:
        get_codec(name)
    assert caught.value.facts["why"]
    assert "eden:<bits, 1 to 4>" in caught.value.remedy_text


@pytest.mark.parametrize("name", [None, 2, b"none"])
def test_what_is_no_text_is_no_name(name: object) -> None:
    with pytest.raises(CodecUnknown, match="text"):
        get_codec(name)  # type: ignore[arg-type]
