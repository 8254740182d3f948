"""What a run is told beyond its app's own configuration: its codecs, whether it is secure, and whom it waits for.

One place, two sources: `[tool.argosy]` in the app's pyproject.toml, and the flags of `argosy run start`, which win. No
numpy and no Flower here, since daemons read it; whether a codec exists is for the registry to say, where numpy is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from argosy_common.errors import AsyncUnsuitable, RunConfigInvalid, SecureUnsuitable

NONE = "none"
"""The codec that changes nothing; arrays under it travel as they are."""
EXACT = "exact"
"""In place of a codec's name: carried as it is."""
MAX_PATTERNS = 256
FEWEST_SECURE = 4
"""Devices of a secure run; as `argosy_common.secagg.parameters` has it, where numpy is not far."""

Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
Pattern = Annotated[str, Field(min_length=1, max_length=1024)]

_TABLE = "tool.argosy.codec"
_KEYS = "codec, model, secure, straggler"
_CODEC_KEYS = "up, down, arrays"


class CodecSettings(BaseModel):
    """The codecs of a run.

    Attributes:
        up: for updates, from the devices.
        down: for the model, to the devices.
        arrays: (pattern of array names, codec or `exact`), the first that fits; for both directions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    up: Name = NONE
    down: Name = NONE
    arrays: Annotated[tuple[tuple[Pattern, Name], ...], Field(max_length=MAX_PATTERNS)] = ()

    @property
    def active(self) -> bool:
        """Whether anything could be encoded."""
        return any(name != NONE for name in self.names)

    @property
    def names(self) -> list[str]:
        """Every codec named, each once, `exact` left out."""
        named = dict.fromkeys([self.up, self.down, *(codec for _, codec in self.arrays)])
        return [name for name in named if name != EXACT]

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Return what `[tool.argosy]` of an app says.

        Raises:
            RunConfigInvalid: a key that is not known, or a value of another form.
        """
        _check_keys(table)
        codec = table.get("codec", {})
        if isinstance(codec, str):
            codec = {"up": codec}
        if not isinstance(codec, Mapping):
            raise _invalid("", "it is neither the name of a codec nor a table")
        arrays = codec.get("arrays", {})
        if not isinstance(arrays, Mapping):
            raise _invalid("arrays", "it is not a table of patterns")
        return cls._checked({**codec, "arrays": tuple(arrays.items())}, _TABLE)

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """Return the settings that `to_wire` wrote, perhaps in another process.

        Raises:
            RunConfigInvalid: they are not.
        """
        arrays = data.get("arrays", ())
        if isinstance(arrays, list | tuple):
            arrays = tuple(tuple(pair) if isinstance(pair, list) else pair for pair in arrays)
        return cls._checked({**data, "arrays": arrays}, "codec")

    def to_wire(self) -> dict[str, Any]:
        """Return the settings as plain data: `{"up", "down", "arrays": [[pattern, codec], …]}`."""
        return {"up": self.up, "down": self.down, "arrays": [list(pair) for pair in self.arrays]}

    def overridden(self, *, up: str | None, down: str | None, arrays: Sequence[tuple[str, str]] = ()) -> Self:
        """Return the settings with what a command says instead; its patterns come first.

        Raises:
            RunConfigInvalid: a name or pattern that cannot be one.
        """
        given = {
            "up": self.up if up is None else up,
            "down": self.down if down is None else down,
            "arrays": (*arrays, *self.arrays),
        }
        return self._checked(given, "codec")

    @classmethod
    def _checked(cls, data: Mapping[str, Any], key: str) -> Self:
        """Return the settings in `data`, which stand under `key`."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            first = error.errors()[0]
            where = _place(first["loc"], data)
            raise _invalid(where, _why(first["type"], nested=isinstance(first["input"], Mapping)), key=key) from None


class _Layer(BaseModel):
    """What one word in `[tool.argosy]` switches on: `true` under its key, or a table of choices, which means true."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    key: ClassVar[str]
    measures: ClassVar[tuple[str, ...]]
    """Numbers with a point that a person may write without one."""
    forms: ClassVar[Mapping[str, str]] = {}
    """What each field is, in words; else pydantic says what it is not."""

    enabled: bool = False

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Return what `[tool.argosy]` of an app says.

        Raises:
            RunConfigInvalid: a key that is not known, or a value of another form.
        """
        _check_keys(table)
        said = table.get(cls.key, {})
        if isinstance(said, bool):
            said = {"enabled": said}
        if not isinstance(said, Mapping):
            raise cls._invalid("", "it is neither true, false nor a table")
        return cls._checked({"enabled": bool(said), **said})

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """Return the settings that `to_wire` wrote, perhaps in another process.

        Raises:
            RunConfigInvalid: they are not.
        """
        return cls._checked(data)

    def to_wire(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return self.model_dump()

    @classmethod
    def _checked(cls, data: Mapping[str, Any]) -> Self:
        floats = {key: float(data[key]) for key in cls.measures if type(data.get(key)) is int}
        try:
            return cls.model_validate({**data, **floats})
        except ValidationError as error:
            first = error.errors()[0]
            where = str(first["loc"][0])
            unknown = first["type"] == "extra_forbidden"
            why = "there is no such key" if unknown else cls.forms.get(where, first["msg"])
            raise cls._invalid(where, why) from None

    @classmethod
    def _invalid(cls, where: str, why: str) -> RunConfigInvalid:
        known = ", ".join(cls.model_fields)
        return RunConfigInvalid(key=f"tool.argosy.{cls.key}.{where}".removesuffix("."), why=why, known=known)


class SecureSettings(_Layer):
    """Whether and how a run aggregates securely (specs/secure-aggregation.md).

    Attributes:
        enabled: whether it does.
        prime: 65521, or 251 for half the bytes and more noise.
        weights: what a number of examples becomes: `powers`, `equal` or `exact`.
        weight_cap: the largest weight in the first round; it grows where devices report that they exceed it.
        bound: root mean square of an update's values that the first round allows for.
        recovery: seconds for the holders, once no more updates are waited for.
        suite: the cipher; `chacha20` for fleets of boards without AES instructions.
    """

    key = "secure"
    measures = ("bound", "recovery")

    prime: Literal[65521, 251] = 65521
    weights: Literal["powers", "equal", "exact"] = "powers"
    weight_cap: Annotated[int, Field(ge=1, lt=2**31)] = 1024
    bound: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    recovery: Annotated[float, Field(gt=0, le=86400)] = 120.0
    suite: Literal["aes256-ctr", "chacha20"] = "aes256-ctr"

    def overridden(self, enabled: bool | None) -> Self:
        """Return the settings with what a command says instead."""
        return self if enabled is None else self.model_copy(update={"enabled": enabled})

    def require_alone(self, codec: CodecSettings) -> None:
        """Refuse codecs beside secure aggregation, which has its own for updates.

        Raises:
            SecureUnsuitable: one is named.
        """
        if self.enabled and codec.active:
            name = next(name for name in codec.names if name != NONE)
            why = "masked updates have a codec of their own, and the model travels whole so that all can check it"
            raise SecureUnsuitable(what=f"the codec '{name}'", why=why)


class StragglerSettings(_Layer):
    """What a run does about slow and missing devices. Every default is learnt from the run's own times.

    Attributes:
        enabled: whether rounds end on time; without it, a round waits for every device that it asked.
        mode: `rounds`, or `async`: no rounds at all, updates are taken as they come (FedBuff).
        deadline: seconds that a phase of a round waits once its quorum is there; `auto`: learnt.
        quorum: how many answers a phase needs before its deadline ends it: a share of the devices that the strategy
            wants (1.0: all of them), or a number of devices.
        over_select: how many more devices are asked than the strategy wants, as a share of them; the phase is over as
            soon as as many as it wants have answered. `auto`: as many as lately did not count.
        grace: seconds that a device may be gone, by its last will, before the phase does without it.
        selector: which devices are asked: the name of a selector.
        hear_every: rounds after which a device that was not heard is due, however slow, where the selector sees to it;
            0: never.
        buffer: asynchronous: updates that make one step of the model.
        concurrency: asynchronous: devices that train at a time; 0: all.
        staleness: asynchronous: an update that is s steps old counts (1 + s) ** −staleness.
    """

    key = "straggler"
    measures = ("deadline", "over_select", "grace", "staleness")
    forms = {
        "enabled": "it is true or false",
        "mode": "it is 'rounds' or 'async'",
        "deadline": "it is 'auto' or a number of seconds",
        "quorum": "it is a share of the devices, 0.0 to 1.0, or a number of them",
        "over_select": "it is 'auto' or a share, such as 0.25, up to 4.0",
        "grace": "it is a number of seconds, at most 3600",
        "selector": "it is the name of a selector",
        "hear_every": "it is a number of rounds",
        "buffer": "it is a number of updates, 1 to 10000",
        "concurrency": "it is a number of devices; 0 means all",
        "staleness": "it is a number, 0 to 10",
    }

    mode: Literal["rounds", "async"] = "rounds"
    deadline: Literal["auto"] | Annotated[float, Field(gt=0, le=7 * 86400)] = "auto"
    quorum: Annotated[int, Field(ge=1, le=1_000_000)] | Annotated[float, Field(gt=0, le=1)] = 0.8
    over_select: Literal["auto"] | Annotated[float, Field(ge=0, le=4)] = "auto"
    grace: Annotated[float, Field(ge=0, le=3600)] = 5.0
    selector: Name = "random"
    hear_every: Annotated[int, Field(ge=0, le=1_000_000)] = 20
    buffer: Annotated[int, Field(ge=1, le=10_000)] = 10
    concurrency: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    staleness: Annotated[float, Field(ge=0, le=10)] = 0.5

    @property
    def asynchronous(self) -> bool:
        """Whether there are no rounds."""
        return self.enabled and self.mode == "async"

    def overridden(self, given: Mapping[str, Any]) -> Self:
        """Return the settings with what a command says instead; saying any of it switches them on, unless it says not.

        Raises:
            RunConfigInvalid: a key that is not known, or a value of another form.
        """
        said = {key: value for key, value in given.items() if value is not None}
        return self._checked({**self.to_wire(), "enabled": bool(said) or self.enabled, **said}) if said else self

    def require_goes_with(self, secure: SecureSettings) -> None:
        """Refuse an asynchronous run that is to be secure.

        Raises:
            AsyncUnsuitable: it is.
        """
        if self.asynchronous and secure.enabled:
            why = (
                "masks are made for a group that is fixed before anybody trains, and a buffer takes whoever is first, "
                "whom the coordinator would then know one by one"
            )
            raise AsyncUnsuitable(what="secure aggregation", why=why)


def _check_keys(table: Mapping[str, Any]) -> None:
    for key in table:
        if key not in _KEYS.split(", "):
            raise RunConfigInvalid(key=f"tool.argosy.{key}", why="there is no such key", known=_KEYS)


def _place(loc: tuple[int | str, ...], data: Mapping[str, Any]) -> str:
    """Return where in the settings something is: a pattern by its text, not by its number."""
    match loc:
        case ("arrays", int(number), 1):
            return f'arrays."{data["arrays"][number][0]}"'
        case _:
            return ".".join(str(part) for part in loc[:2])


def _why(kind: str, *, nested: bool) -> str:
    """Return what is wrong, of the kinds that pydantic tells apart."""
    if kind == "string_type" and nested:
        return 'it is a table; put a pattern with dots in quotes, as in "embedding.*" = "fp16"'
    return {
        "extra_forbidden": "there is no such key",
        "string_type": "it is not the name of a codec",
        "string_too_short": "it is empty",
        "string_too_long": "it is too long",
        "string_pattern_mismatch": "a codec's name has no spaces, and no letters beyond ASCII",
        "too_long": f"there are more than {MAX_PATTERNS} patterns",
    }.get(kind, "it is not of the form that it must have")


def _invalid(where: str, why: str, *, key: str = _TABLE) -> RunConfigInvalid:
    return RunConfigInvalid(key=f"{key}.{where}".removesuffix("."), why=why, known=_CODEC_KEYS)
