"""Settings of a daemon: flags, then environment variables, then a TOML file, then defaults; the first that speaks wins.

Every problem is one `SettingsInvalid` that names the key and where it came from. Unknown keys are refused in all three
places, since a misspelt setting that is silently ignored is the worst kind.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from argosy_common.errors import SettingsInvalid

_NESTED = "__"
_file_table: ContextVar[dict[str, Any] | None] = ContextVar("_file_table", default=None)


class Settings(BaseSettings):
    """The base of a daemon's settings.

    A subclass sets its prefix and declares fields; nested tables are pydantic models with `extra="forbid"`:

        class DeviceSettings(Settings):
            model_config = SettingsConfigDict(env_prefix="ARGOSY_DEVICE_")
            heartbeat_s: float = 10.0
            worker: WorkerTable = WorkerTable()

        DeviceSettings.load(Path("/etc/argosy/device.toml"), heartbeat_s=5.0)

    `ARGOSY_DEVICE_WORKER__MEMORY_MB=512` sets `memory_mb` in the table `worker`.
    """

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_nested_delimiter=_NESTED,
        env_prefix="ARGOSY_",
        nested_model_default_partial_update=True,
    )

    not_settings: ClassVar[frozenset[str]] = frozenset({"config"})
    """Variables with our prefix that are no settings (lower case, without the prefix): the command line reads them."""

    @classmethod
    def load(cls, file: Path | None = None, **flags: object) -> Self:
        """Read, merge and check the settings. A flag that is None was not given.

        Raises:
            SettingsInvalid: the file is missing or is not TOML, or a key is unknown or has an impossible value.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        table = {} if file is None else _read_toml(file)
        cls._refuse_unknown_variables()
        token = _file_table.set(table)
        try:
            return cls(**given)  # type: ignore[arg-type]  # pydantic checks what the flags hold
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            source = cls._source_of(first["loc"], given, table, file)
            why = "there is no such setting" if first["type"] == "extra_forbidden" else _lowered(first["msg"])
            raise SettingsInvalid(name=_dotted(first["loc"]), why=why, source=source) from None
        except SettingsError as error:
            raise SettingsInvalid(name=f"{cls._prefix()}*", why=error, source="the environment") from None
        finally:
            _file_table.reset(token)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (pydantic-settings calls with these names)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (likewise)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the TOML file under the environment; no dotenv file and no secrets folder."""
        return (init_settings, env_settings, InitSettingsSource(settings_cls, _file_table.get() or {}))

    @classmethod
    def _prefix(cls) -> str:
        return str(cls.model_config.get("env_prefix", ""))

    @classmethod
    def _refuse_unknown_variables(cls) -> None:
        prefix = cls._prefix().lower()
        known = {*cls.model_fields, *cls.not_settings}
        for variable in os.environ:
            name = variable.lower().removeprefix(prefix)
            if variable.lower().startswith(prefix) and name.split(_NESTED)[0] not in known:
                known_names = ", ".join(sorted(cls.model_fields))
                raise SettingsInvalid(
                    name=variable, why=f"there is no such setting; known are {known_names}", source="the environment"
                )

    @classmethod
    def _source_of(
        cls, loc: tuple[int | str, ...], flags: Mapping[str, Any], table: Mapping[str, Any], file: Path | None
    ) -> str:
        """Say where the value at `loc` came from, in words."""
        if loc and loc[0] in flags:
            return f"the flag --{str(loc[0]).replace('_', '-')}"
        variables = {variable.lower(): variable for variable in os.environ}
        for depth in range(len(loc), 0, -1):
            name = f"{cls._prefix()}{_NESTED.join(str(part) for part in loc[:depth])}".lower()
            if name in variables:
                return f"the environment variable {variables[name]}"
        if file is not None and loc and loc[0] in table:
            return str(file)
        return "the settings file, the environment or a flag"


def changed(old: BaseModel, new: BaseModel) -> list[str]:
    """Name the settings whose values differ, as in the file: `log_level`, `broker.port`."""
    names: list[str] = []
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            names += [f"{name}.{inner}" for inner in changed(before, after)]
        elif before != after:
            names.append(name)
    return names


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        why = f"{file}: {_lowered(error.strerror or str(error))}"
        raise SettingsInvalid(name="--config", why=why, source="the command or the environment") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(name=file, why=f"it is not TOML: {_lowered(str(error))}", source=file) from None


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc) or "file as a whole"


def _lowered(message: str) -> str:
    message = message.removeprefix("Value error, ")  # pydantic puts it before what a validator of ours says
    return message[:1].lower() + message[1:]
