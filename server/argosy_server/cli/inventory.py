"""A board's inventory (`argosy_client.inventory`) as a person reads it: one line for each thing that it is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from argosy_server.cli import words
from argosy_server.cli.words import clean

_TOLD = frozenset({"machine", "version"})
"""Facts that its birth tells afresh, and that are shown from there."""
_GROUPED = frozenset({"model", "serial", "cpu", "cores", "memory", "os", "kernel", "l4t", "python", "torch"})
_GROUPED |= {"accelerators", "power"}


def inventory_rows(inventory: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield names and values, empty ones among them. Facts that this version does not know come last, as they are."""
    known = {name: clean(value) for name, value in inventory.items()}

    def told(name: str, form: str = "{}") -> str:
        return form.format(known[name]) if known.get(name) else ""

    memory = inventory.get("memory")
    yield "board", _joined(told("model"), told("serial", "serial {}"))
    yield "processor", " ".join(filter(None, (told("cpu"), told("cores", "× {}"))))
    yield "ram", words.size(memory) if isinstance(memory, int) else ""
    yield "system", _joined(told("os"), told("kernel", "Linux {}"), told("l4t", "L4T {}"))
    yield "software", _joined(told("python", "Python {}"), told("torch", "torch {}"))
    yield "accelerators", told("accelerators")
    yield "power sensors", told("power")
    yield from ((clean(name), known[name]) for name in sorted(known) if name not in _GROUPED | _TOLD)


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))
