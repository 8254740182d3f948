"""Versions of models: each name counts its own, upwards, and no version is ever used twice or removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from argosy_common.clock import Clock
from argosy_common.errors import ModelNotFound, StorageFailed
from argosy_server.store.audit import put_audit
from argosy_server.store.database import Database
from argosy_server.store.rows import Json, ModelRow
from argosy_server.store.tables import Model

LATEST = "latest"
"""In place of a version: the newest one."""
_MAX_VERSION = 2**31 - 1
_TURNS = 5
"""How often a version is tried that another connection may have taken meanwhile."""


@dataclass(frozen=True)
class SignedManifest:
    """What `Models.add` stores of a version: the bytes that were signed, the signature, and the blobs they name."""

    manifest: bytes
    signature: Json
    onnx_digest: str
    golden_digest: str
    run: int | None
    round: int | None


Make = Callable[[int, int | None], SignedManifest]
"""Given the version that it gets and its parent (None for the first), make a version's manifest and sign it."""


class Models:
    """The table of models."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add(self, name: str, make: Make, *, parent: int | None = None, actor: str) -> ModelRow:
        """Add the next version of `name`, made for its number inside the transaction; it is in the audit log.

        Args:
            parent: the version that it comes from; by default the one before.

        Raises:
            ModelNotFound: there is no such parent.
        """
        for _ in range(_TURNS):
            try:
                with self._database.write() as session:
                    return self._add(session, name, make, parent, actor)
            except IntegrityError:
                continue
        raise StorageFailed(path=self._database.where, why=f"others keep adding versions of {name}")

    def _add(self, session: Session, name: str, make: Make, parent: int | None, actor: str) -> ModelRow:
        last = session.scalar(select(func.max(Model.version)).where(Model.name == name))
        if parent is not None and session.get(Model, (name, parent)) is None:
            raise ModelNotFound(model=f"{name}:{parent}")
        version = (last or 0) + 1
        made = make(version, last if parent is None else parent)
        now = self._clock.wall()
        model = Model(name=name, version=version, created_at=now, **vars(made))
        session.add(model)
        session.flush()
        put_audit(session, now, actor, "model.add", subject=f"{name}:{version}", detail={"onnx": made.onnx_digest})
        return model.to_row(ModelRow)

    def get(self, reference: str) -> ModelRow:
        """Return the version that `name:version` names; the newest one for `name` and `name:latest`.

        Raises:
            ModelNotFound: there is none.
        """
        with self._database.read() as session:
            return _find(session, reference).to_row(ModelRow)

    def list(self) -> list[ModelRow]:
        """Return all versions, by name, the newest of each first."""
        query = select(Model).order_by(Model.name, Model.version.desc())
        with self._database.read() as session:
            return [model.to_row(ModelRow) for model in session.scalars(query)]

    def of_run(self, run: int) -> Sequence[ModelRow]:
        """Return the versions that a run made."""
        query = select(Model).where(Model.run == run).order_by(Model.name, Model.version)
        with self._database.read() as session:
            return [model.to_row(ModelRow) for model in session.scalars(query)]

    def promoted(self, name: str) -> ModelRow | None:
        """Return the version of `name` that new boards get; None where none was promoted."""
        query = select(Model).where(Model.name == name, Model.promoted_at.is_not(None))
        with self._database.read() as session:
            found = session.scalars(query).first()
            return found.to_row(ModelRow) if found else None

    def promote(self, reference: str, actor: str) -> ModelRow:
        """Make a version the one of its name that new boards get; it is in the audit log. Once more changes nothing.

        Raises:
            ModelNotFound: there is none.
        """
        now = self._clock.wall()
        with self._database.write() as session:
            found = _find(session, reference)
            if found.promoted_at is None:
                session.execute(update(Model).where(Model.name == found.name).values(promoted_at=None))
                found.promoted_at = now
                session.flush()
                put_audit(session, now, actor, "model.promote", subject=f"{found.name}:{found.version}", detail={})
            return found.to_row(ModelRow)

    def digests(self) -> set[str]:
        """Return the digests of all blobs that some version needs."""
        with self._database.read() as session:
            rows = list(session.execute(select(Model.onnx_digest, Model.golden_digest, Model.manifest)))
        found = {digest for onnx, golden, _ in rows for digest in (onnx, golden)}
        for _, _, manifest in rows:
            found.update(form["digest"] for form in json.loads(manifest).get("forms", {}).values())
        return found


def _find(session: Session, reference: str) -> Model:
    name, _, wanted = reference.partition(":")
    query = select(Model).where(Model.name == name).order_by(Model.version.desc()).limit(1)
    if wanted not in ("", LATEST):
        version = int(wanted) if wanted.isascii() and wanted.isdecimal() and len(wanted) < 11 else 0
        query = query.where(Model.version == min(version, _MAX_VERSION))
    found = session.scalars(query).first()
    if found is None:
        raise ModelNotFound(model=reference[:128])
    return found
