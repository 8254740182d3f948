"""The root of the error tree, and its form on the wire."""

from __future__ import annotations

import string
from collections.abc import Mapping
from enum import Enum
from typing import ClassVar


class Fault(Enum):
    """Whose move it is. The four are told apart so that a message never blames the wrong party."""

    OPERATOR = "operator"
    PEER = "peer"
    NETWORK = "network"
    BUG = "bug"


REGISTRY: dict[str, type[ArgosyError]] = {}
_EXIT_CODES: dict[int, type[ArgosyError]] = {}
"""Who said an exit code first: the error, or the family of errors that share it."""


class ArgosyError(Exception):
    """A failure with a name.

    A subclass gives `code` (stable, kebab-case, never reused), `exit_code`, `fault`, `template` (one plain sentence
    with {fields}) and `remedy` (what the reader does next). An instance is made with the fields the template names:
    `PortInUse(port=8883, holder="mosquitto")`.

    A subclass made with `family=True` is no failure itself: those below it share its exit code, since a shell has only
    so many.
    """

    code: ClassVar[str]
    exit_code: ClassVar[int]
    fault: ClassVar[Fault]
    template: ClassVar[str]
    remedy: ClassVar[str]

    def __init_subclass__(cls, *, family: bool = False) -> None:
        """Register the class, and refuse a code or an exit code that is taken."""
        super().__init_subclass__()
        if "exit_code" in cls.__dict__:
            first = _EXIT_CODES.setdefault(cls.exit_code, cls)
            if first.__qualname__ != cls.__qualname__:
                raise TypeError(f"exit code {cls.exit_code} is taken by {first.__qualname__}")
        if family:
            return
        taken = REGISTRY.get(cls.code)
        if taken is not None and taken.__qualname__ != cls.__qualname__:
            raise TypeError(f"error code {cls.code!r} is taken by {taken.__qualname__}")
        REGISTRY[cls.code] = cls

    def __init__(self, /, **facts: object) -> None:
        """Make the error from the facts its template names; further facts are kept for logs."""
        self.facts: dict[str, str] = {name: str(value) for name, value in facts.items()}
        self.message = self._fill(self.template)
        super().__init__(self.message)

    @property
    def remedy_text(self) -> str:
        """The remedy with this instance's facts filled in."""
        return self._fill(self.remedy)

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The names of the facts that the template asks for."""
        return tuple(name for _, name, _, _ in string.Formatter().parse(cls.template) if name)

    def _fill(self, template: str) -> str:
        """Fill `template`; a fact that was not given reads as '?', since an error must never fail to be told."""
        wanted = {name for _, name, _, _ in string.Formatter().parse(template) if name}
        return template.format_map({name: self.facts.get(name, "?") for name in wanted})

    def to_wire(self) -> dict[str, object]:
        """Return the error as plain data: `{"code", "message", "remedy", "facts"}`."""
        return {
            "code": self.code,
            "message": self.message,
            "remedy": self.remedy_text,
            "facts": dict(self.facts),
        }


class ProgrammingError(ArgosyError):
    """Our own bug, met at run time and reported rather than swallowed."""

    code = "programming-error"
    exit_code = 70
    fault = Fault.BUG
    template = "Something happened that Argosy did not foresee: {what}."
    remedy = "This is a bug in Argosy. Please report it with the log around this moment."


def error_from_wire(data: Mapping[str, object]) -> ArgosyError:
    """Rebuild an error that another process or board sent; an unknown code is quoted by a `ProgrammingError`."""
    code = str(data.get("code", ""))
    facts = data.get("facts")
    known = REGISTRY.get(code)
    if known is None:
        return ProgrammingError(what=f"{code or 'unnamed error'}: {data.get('message', '')}")
    return known(**{str(k): v for k, v in facts.items()} if isinstance(facts, Mapping) else {})
