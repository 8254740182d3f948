"""The file that lets a board join by itself at its first boot (docs/operating.md, "From a flashed card").

`argosy-provision image` writes it onto a card; `argosy-device first-boot` joins with it once and erases it. It holds a
token, which is a password: nothing else on a card does.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from argosy_common import x509
from argosy_common.coordinator_https import https_url
from argosy_common.enrolment import JoinToken
from argosy_common.errors import EnrolmentFileInvalid, RequestInvalid

FILE = "argosy-enrol.toml"
NOTE = "argosy-enrol.failed.txt"
"""Lies beside the file, or where it was: what went wrong, in plain words, without the token."""
UNIT = "argosy-first-boot.service"
PLACES = ("boot/firmware", "boot", "var/lib/cloud")
"""Folders below the root where a board looks for the file, in this order: the boot partition as newer and as older
systems mount it; the last is for machines without one, where cloud-init's `write_files` puts it."""

_SERIAL = "{serial}"


def _join_token(token: str) -> str:
    JoinToken.parse(token)  # raises TokenMalformed, which does not repeat it
    return token


def _operator_key(pem: str) -> str:
    if "PRIVATE KEY" in pem:
        raise ValueError("it is a private key, which is for its owner alone")
    try:
        x509.parse_public_pem(pem.encode())
    except RequestInvalid:
        raise ValueError("it is not the PEM form of a P-256 public key") from None
    return pem


def _name(name: str) -> str:
    if not name.isprintable() or set("{}") & set(name.replace(_SERIAL, "")):
        raise ValueError(f"it may hold printable characters, and {_SERIAL} for the board's serial number")
    return name


ShortName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class EnrolmentFile(BaseModel):
    """What a board needs to join: the words of `argosy-device join`, and what it should be called."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: Annotated[str, AfterValidator(https_url)]
    token: Annotated[str, AfterValidator(_join_token), Field(repr=False)]
    pin: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    name: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_name)] | None = None
    """What people will call the board; `pi-{serial}` serves for a whole batch of cards."""
    operator_key: Annotated[str, AfterValidator(_operator_key)] | None = None
    """The operator's public key, PEM."""
    site: ShortName | None = None
    """Where in the site of its token the board stands: its own setting of that name, as is the next."""
    shard: ShortName | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file at `path`.

        Raises:
            EnrolmentFileInvalid, TokenMalformed: it cannot be used; no message repeats the token.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise EnrolmentFileInvalid(path=path, why=error.strerror or error) from None
        except ValidationError as error:
            raise EnrolmentFileInvalid(path=path, why=first_problem(error)) from None
        except ValueError as error:
            raise EnrolmentFileInvalid(path=path, why=f"it is not TOML: {error}") from None

    def toml(self) -> str:
        """Return the file's text."""
        given = self.model_dump(exclude_none=True)
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in given.items()]
        return "".join(["# This board joins with it at its first boot and erases it. It holds a password.\n", *lines])

    def board_name(self, serial: str) -> str | None:
        """Return what to call the board of that serial number; None: by its host name, as there is nothing better."""
        if self.name is None or (_SERIAL in self.name and not serial):
            return None
        return self.name.replace(_SERIAL, serial)

    @property
    def operator(self) -> x509.PublicKey | None:
        """The operator's key to pin."""
        return None if self.operator_key is None else x509.parse_public_pem(self.operator_key.encode())


def first_problem(error: ValidationError) -> str:
    """Say which field is wrong and why, without its value."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
    return f"{where}: {re.sub('^Value error, ', '', first['msg'])}"
