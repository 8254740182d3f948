"""What lies between a run's strategy and its devices: as the app asks for it, and the command instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from argosy_common.bundle import AppManifest
from argosy_common.errors import SecureTooFewDevices
from argosy_common.run_settings import FEWEST_SECURE, CodecSettings, SecureSettings, StragglerSettings


def fuse_layers(
    manifest: AppManifest, said: Mapping[str, Any], fleet: Callable[[], tuple[int, int | None]]
) -> dict[str, Any]:
    """Return a run's layers as plain data, `codec` always, `secure` and `straggler` where they are on.

    Args:
        said: what the command says; see `RunSupervisor.start`.
        fleet: returns how many devices could take part, and the version of the operator's fleet list, None where there
            is none; asked for secure runs only.

    Raises:
        RunConfigInvalid: a key or value that is not known.
        SecureUnsuitable, SecureTooFewDevices, AsyncUnsuitable: what does not go together, or with this fleet.
    """
    codec = said.get("codec") or {}
    codecs = CodecSettings.from_table(manifest.argosy).overridden(
        up=codec.get("up"), down=codec.get("down"), arrays=codec.get("arrays", ())
    )
    secure = SecureSettings.from_table(manifest.argosy).overridden(said.get("secure"))
    straggler = StragglerSettings.from_table(manifest.argosy).overridden(said.get("straggler") or {})
    straggler.require_goes_with(secure)
    secure.require_alone(codecs)
    layers: dict[str, Any] = {"codec": codecs.to_wire()}
    if straggler.enabled:
        layers["straggler"] = straggler.to_wire()
    if secure.enabled:
        enrolled, version = fleet()
        if enrolled < FEWEST_SECURE:
            raise SecureTooFewDevices(needed=FEWEST_SECURE, what="enrolled devices", found=enrolled)
        layers["secure"] = {**secure.to_wire(), "fleet": version}
    return layers
