"""What a device keeps of a run between instructions: the models it was brought to, and what encoding lost so far.

It lies in Flower's `Context.state`, which Argosy's device journals with the reply, and Flower's SuperNode keeps while
it runs. The app does not see it: it is taken out before the app is called, and put back afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from argosy_common.flower.codec import ARGOSY
from argosy_common.flower.codec.groups import gathered

_VERSIONS = f"{ARGOSY}.versions"
_RESIDUALS = f"{ARGOSY}.residuals"
_MODEL = f"{ARGOSY}.model."


@dataclass
class HeldModel:
    """A model as the coordinator knows that this device has it."""

    line: str
    version: int
    arrays: ArrayRecord


@dataclass
class Held:
    """Everything that is kept: models by the name of their record, residuals (flat float32) by record and codec."""

    models: dict[str, HeldModel] = field(default_factory=dict)
    residuals: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def taken_from(cls, state: RecordDict) -> Held:
        """Take what is kept out of a context's state; of what does not fit together nothing counts as held."""
        held = cls()
        versions = state.config_records.get(_VERSIONS, ConfigRecord())
        for name in [name for name in state if name.startswith(f"{ARGOSY}.")]:
            record = state.pop(name)
            if not isinstance(record, ArrayRecord):
                continue
            if name == _RESIDUALS:
                held.residuals = dict(record)
            elif name.startswith(_MODEL):
                its = name.removeprefix(_MODEL)
                line, _, version = str(versions.get(its, "")).rpartition(":")
                if version.isdigit():
                    held.models[its] = HeldModel(line, int(version), record)
        return held

    def put_into(self, state: RecordDict) -> None:
        """Put it back."""
        if self.models:
            state[_VERSIONS] = ConfigRecord({name: f"{it.line}:{it.version}" for name, it in self.models.items()})
        for name, model in self.models.items():
            state[_MODEL + name] = model.arrays
        if self.residuals:
            state[_RESIDUALS] = gathered(self.residuals)
