"""What a run is told, from the app's table and from flags."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.errors import AsyncUnsuitable, RunConfigInvalid
from argosy_common.run_settings import CodecSettings, SecureSettings, StragglerSettings

names = st.text("abcdefghijklmnop:.0123456789", min_size=1, max_size=20)
patterns = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40)


def test_without_a_word_nothing_is_compressed() -> None:
    settings = CodecSettings.from_table({})
    assert (settings.up, settings.down, settings.arrays) == ("none", "none", ())
    assert not settings.active
    assert settings.names == ["none"]


def test_a_name_alone_is_for_what_goes_up() -> None:
    settings = CodecSettings.from_table({"codec": "eden:2"})
    assert (settings.up, settings.down) == ("eden:2", "none")
    assert settings.active


def test_a_table_names_both_directions_and_patterns_in_their_order() -> None:
    arrays = {"b.*": "fp16", "*": "exact"}
    settings = CodecSettings.from_table({"codec": {"up": "eden:2", "down": "int8", "arrays": arrays}})
    assert settings.arrays == (("b.*", "fp16"), ("*", "exact"))
    assert settings.names == ["eden:2", "int8", "fp16"]


def test_patterns_alone_make_it_active() -> None:
    assert CodecSettings.from_table({"codec": {"arrays": {"w": "int8"}}}).active
    assert not CodecSettings.from_table({"codec": {"arrays": {"w": "exact", "v": "none"}}}).active


def test_flags_win_and_their_patterns_come_first() -> None:
    app = CodecSettings.from_table({"codec": {"up": "eden:2", "down": "int8", "arrays": {"w": "fp16"}}})
    told = app.overridden(up="none", down=None, arrays=[("v", "exact")])
    assert (told.up, told.down) == ("none", "int8")
    assert told.arrays == (("v", "exact"), ("w", "fp16"))


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"codecs": "eden:2"}, "tool.argosy.codecs"),
        ({"codec": 2}, "tool.argosy.codec"),
        ({"codec": ["eden:2"]}, "tool.argosy.codec"),
        ({"codec": {"upp": "eden:2"}}, "tool.argosy.codec.upp"),
        ({"codec": {"up": 2}}, "tool.argosy.codec.up"),
        ({"codec": {"up": ""}}, "tool.argosy.codec.up"),
        ({"codec": {"down": "eden 2"}}, "tool.argosy.codec.down"),
        ({"codec": {"down": "x" * 200}}, "tool.argosy.codec.down"),
        ({"codec": {"arrays": "w"}}, "tool.argosy.codec.arrays"),
        ({"codec": {"arrays": {"w": 1}}}, "tool.argosy.codec.arrays"),
        ({"codec": {"arrays": {str(n): "int8" for n in range(300)}}}, "tool.argosy.codec.arrays"),
    ],
)
def test_what_is_not_well_formed_is_refused_by_its_key(table: dict[str, Any], key: str) -> None:
    with pytest.raises(RunConfigInvalid) as refused:
        CodecSettings.from_table(table)
    assert key in refused.value.message


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"up": ""}, "codec.up cannot be used: it is empty"),
        ({"up": "eden 2"}, "codec.up cannot be used: a codec's name has no spaces"),
        ({"down": 4}, "codec.down cannot be used: it is not the name of a codec"),
        ({"arrays": {"w": 1}}, 'codec.arrays."w" cannot be used: it is not the name of a codec'),
        ({"arrays": {"embedding": {"weight": "fp16"}}}, 'codec.arrays."embedding" cannot be used: it is a table; put'),
        ({"arrays": {str(n): "int8" for n in range(300)}}, "codec.arrays cannot be used: there are more than 256"),
        ({"upp": "eden:2"}, "codec.upp cannot be used: there is no such key"),
    ],
)
def test_what_is_wrong_is_told_in_plain_words(table: dict[str, Any], told: str) -> None:
    with pytest.raises(RunConfigInvalid) as refused:
        CodecSettings.from_table({"codec": table})
    assert told in refused.value.message


def test_what_a_flag_got_wrong_is_not_laid_to_the_app() -> None:
    with pytest.raises(RunConfigInvalid) as refused:
        CodecSettings().overridden(up="eden 2", down=None)
    assert "tool.argosy" not in refused.value.message


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=8))
def test_whatever_comes_from_the_wire_is_read_or_refused(arrays: Any) -> None:  # noqa: ANN401  (whatever JSON may give)
    with contextlib.suppress(RunConfigInvalid):
        CodecSettings.from_wire({"arrays": arrays})


@given(names, names, st.lists(st.tuples(patterns, names), max_size=5))
def test_settings_come_back_from_the_wire(up: str, down: str, arrays: list[tuple[str, str]]) -> None:
    settings = CodecSettings(up=up, down=down, arrays=tuple(arrays))
    assert CodecSettings.from_wire(settings.to_wire()) == settings


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.dictionaries(st.text(), inner)))
def test_any_table_is_read_or_refused(value: Any) -> None:  # noqa: ANN401  (whatever TOML may give)
    with contextlib.suppress(RunConfigInvalid):
        CodecSettings.from_table({"codec": value})


def test_daemons_may_read_it() -> None:
    code = "import sys, argosy_common.run_settings; print([n for n in ('numpy', 'flwr', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


# --- whom a run waits for


def test_without_a_word_everybody_is_waited_for() -> None:
    assert not StragglerSettings.from_table({}).enabled
    assert not StragglerSettings.from_table({"straggler": False}).enabled


@pytest.mark.parametrize("table", [True, {"quorum": 0.9}, {"mode": "async"}])
def test_one_word_of_it_switches_it_on(table: Any) -> None:  # noqa: ANN401  (whatever TOML may give)
    settings = StragglerSettings.from_table({"straggler": table})
    assert settings.enabled
    assert settings.asynchronous is (table == {"mode": "async"})


def test_a_table_may_be_there_and_off() -> None:
    settings = StragglerSettings.from_table({"straggler": {"enabled": False, "deadline": 30}})
    assert not settings.enabled
    assert settings.overridden({"enabled": True}).deadline == 30.0


def test_a_share_and_a_number_of_devices_are_told_apart_also_over_the_wire() -> None:
    one, all_ = (StragglerSettings.from_table({"straggler": {"quorum": quorum}}) for quorum in (1, 1.0))
    assert isinstance(one.quorum, int)
    assert isinstance(all_.quorum, float)
    for settings in (one, all_):
        again = StragglerSettings.from_wire(json.loads(json.dumps(settings.to_wire())))
        assert again == settings
        assert type(again.quorum) is type(settings.quorum)


def test_what_a_command_says_switches_it_on_unless_it_says_not() -> None:
    app = StragglerSettings.from_table({})
    assert app.overridden({}) == app
    assert app.overridden({"quorum": 0.5}).enabled
    assert not app.overridden({"enabled": False, "quorum": 0.5}).enabled


@pytest.mark.parametrize(
    ("table", "key", "told"),
    [
        ({"straggler": 3}, "tool.argosy.straggler", "neither true, false nor a table"),
        ({"straggler": {"quorums": 3}}, "tool.argosy.straggler.quorums", "no such key"),
        ({"straggler": {"quorum": 0}}, "tool.argosy.straggler.quorum", "share of the devices"),
        ({"straggler": {"quorum": 1.5}}, "tool.argosy.straggler.quorum", "share of the devices"),
        ({"straggler": {"quorum": True}}, "tool.argosy.straggler.quorum", "share of the devices"),
        ({"straggler": {"deadline": "soon"}}, "tool.argosy.straggler.deadline", "seconds"),
        ({"straggler": {"deadline": float("nan")}}, "tool.argosy.straggler.deadline", "seconds"),
        ({"straggler": {"over_select": -0.1}}, "tool.argosy.straggler.over_select", "0.25"),
        ({"straggler": {"mode": "fast"}}, "tool.argosy.straggler.mode", "async"),
        ({"straggler": {"buffer": 0}}, "tool.argosy.straggler.buffer", "updates"),
        ({"straggler": {"grace": float("inf")}}, "tool.argosy.straggler.grace", "seconds"),
    ],
)
def test_what_is_wrong_about_stragglers_is_told(table: dict[str, Any], key: str, told: str) -> None:
    with pytest.raises(RunConfigInvalid) as caught:
        StragglerSettings.from_table(table)
    assert key in caught.value.message
    assert told in caught.value.message


def test_an_asynchronous_run_is_not_secure() -> None:
    asynchronous = StragglerSettings.from_table({"straggler": {"mode": "async"}})
    asynchronous.require_goes_with(SecureSettings())
    StragglerSettings.from_table({"straggler": True}).require_goes_with(SecureSettings(enabled=True))
    with pytest.raises(AsyncUnsuitable, match="secure aggregation"):
        asynchronous.require_goes_with(SecureSettings(enabled=True))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), st.lists))
def test_any_table_of_stragglers_is_read_or_refused(value: Any) -> None:  # noqa: ANN401  (whatever TOML may give)
    for name in StragglerSettings.model_fields:
        with contextlib.suppress(RunConfigInvalid):
            StragglerSettings.from_table({"straggler": {name: value}})
