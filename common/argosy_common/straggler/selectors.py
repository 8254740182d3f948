"""Which selectors there are: ours, and those that installed packages declare under the entry point `argosy.selectors`.

An entry point's name is the selector's; its object is called with `hear_every` and returns a `Selector`. Ours stand in
a table here as well, so that they are found where the metadata of an installation is older than the code. A foreign
package cannot take the place of one of ours, and is imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from argosy_common.errors import SelectorUnknown
from argosy_common.straggler.selection import Random, Ready, Selector

GROUP = "argosy.selectors"

OURS: dict[str, Callable[..., Selector]] = {"random": Random, "ready": Ready}
"""As in pyproject.toml."""


def known() -> list[str]:
    """Return the names of all selectors, ours first."""
    return [*OURS, *sorted(_foreign())]


def get_selector(name: str, *, hear_every: int) -> Selector:
    """Return the selector of a name, made to see to it that every device is heard within `hear_every` rounds.

    Raises:
        SelectorUnknown: there is none of that name, or its package does not work; the error says which.
    """
    if name in OURS:
        return OURS[name](hear_every=hear_every)
    entry = _foreign().get(name)
    if entry is None:
        raise SelectorUnknown(name=name, known=", ".join(known()))
    try:
        made: Selector = entry.load()(hear_every=hear_every)
    except (Exception, SystemExit) as error:  # a foreign module may raise anything
        raise _broken(entry, f"{type(error).__name__}: {error}") from error
    if not callable(getattr(made, "choose", None)):
        raise _broken(entry, f"{entry.value} makes nothing that can choose")
    return made


def _foreign() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in OURS}


def _broken(entry: EntryPoint, why: str) -> SelectorUnknown:
    """Return the error for a selector that is there and cannot be used: it is named among those that there are."""
    others = [name for name in known() if name != entry.name]
    return SelectorUnknown(
        name=entry.name, known=f"{', '.join(others)}; the package that brings {entry.name} fails, {why}"
    )
