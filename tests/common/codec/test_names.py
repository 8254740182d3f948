"""Names of codecs: what is refused, and what a refusal says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.codec.registry import OURS, get_codec, known
from argosy_common.errors import CodecUnknown
from tests.common.codec.vectors import CODECS, same_each_time

BAD = (
    "eden", "eden:", "eden:0", "eden:5", "eden:-1", "eden:2 ", "eden: 2", "eden:2:3", "eden:٢", " eden:2", "EDEN:2",
    "topk", "topk:", "topk:0", "topk:1", "topk:-0.1", "topk:nan", "topk:inf", "topk:1e-400", "topk:x",
    "int8:3", "int8:", "none:", "fp16:1", "bf16:x",
    "ring", "ring:", "ring:250", "ring:abc", "ring:2", "ring:113", "ring:65537", "ring:0251", "ring:-251", "ring:251.0",
    "", ":", "::", ":2", "gzip", "none\n", "none\0", "None",
)  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_refused_with_a_reason_and_what_there_is(name: str) -> None:
    with pytest.raises(CodecUnknown) as caught:
        get_codec(name)
    assert caught.value.facts["name"] == name
    assert caught.value.facts["why"]
    for form in known():
        assert form in caught.value.remedy_text


def test_the_list_of_what_is_known_names_each_of_ours_once_and_first() -> None:
    assert [form.partition(":")[0] for form in known()][: len(OURS)] == list(OURS)


@pytest.mark.parametrize("name", [*CODECS, "ring:251", "ring:65521", "ring:127"])
def test_a_good_name_is_the_codecs_own(name: str) -> None:
    assert get_codec(name).name == name


def test_a_fraction_has_one_name_however_it_is_written() -> None:
    assert {get_codec(name).name for name in ("topk:0.010", "topk:1e-2", "topk:.01")} == {"topk:0.01"}


@same_each_time
@given(st.sampled_from([*OURS, "other", ""]), st.text(max_size=12))
def test_any_name_is_a_codec_or_refused_as_unknown(kind: str, parameter: str) -> None:
    try:
        codec = get_codec(f"{kind}:{parameter}")
    except CodecUnknown:
        return
    assert get_codec(codec.name).name == codec.name


def ask(folder: Path, name: str) -> str:
    """Return what a process says of a codec's name, in whose path a distribution lies with two unsound codecs."""
    metadata = folder / "unsound-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: unsound\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[argosy.codecs]\nexits = exits_codec:Codec\nodd = not a module !!\n")
    (folder / "exits_codec.py").write_text("raise SystemExit(3)\n")
    code = (
        "from argosy_common.codec.registry import get_codec\n"
        "from argosy_common.errors import CodecUnknown\n"
        f"try: print('found', get_codec({name!r}).name)\n"
        "except CodecUnknown as error: print('refused', error.facts['name'], error.facts['why'])\n"
    )
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    return done.stdout


def test_an_entry_point_that_makes_no_sense_is_refused_by_its_name(tmp_path: Path) -> None:
    assert ask(tmp_path, "odd").startswith("refused odd its package cannot be loaded")


def test_unsound_packages_disturb_no_codec_of_ours(tmp_path: Path) -> None:
    assert ask(tmp_path, "eden:2") == "found eden:2\n"


def test_a_package_that_exits_while_it_is_imported_is_refused_by_its_name(tmp_path: Path) -> None:
    assert ask(tmp_path, "exits").startswith("refused exits its package cannot be loaded")
