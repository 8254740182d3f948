"""A state directory as a coordinator leaves it, without the coordinator."""

from __future__ import annotations

from pathlib import Path

from argosy_common.blobs import BlobStore
from argosy_common.clock import SystemClock
from argosy_common.files import private_folder
from argosy_server.ca import CertificateAuthority
from argosy_server.settings import CoordinatorSettings, EnrolmentTable
from argosy_server.store import Store


def make_state(folder: Path, *, database: str | None = None) -> CoordinatorSettings:
    """Make one in `folder`: authority, a run with its app and final model, a token, a log, a fleet list's stand-in."""
    settings = settings_of(folder, database=database)
    clock = SystemClock()
    ca = CertificateAuthority.open(private_folder(folder) / "ca", clock)
    ca.write_crl([])
    blobs = BlobStore(settings.blobs_dir)
    app, model = blobs.put_bytes(b"an app"), blobs.put_bytes(b"a model" * 100_000)
    with Store.open(settings.database_url, clock) as store:
        store.tokens.create()
        run = store.runs.create(
            app_name="har",
            app_digest=app.hex,
            app_size=app.size,
            server_app="a:b",
            client_app="a:c",
            run_config={},
            options={},
        )
        store.events.append(run, "round", {"number": 1})
        store.runs.update(run, final_model=model.hex)
    private_folder(folder / "runs" / "1").joinpath("run.log").write_text("trained\n")
    private_folder(folder / "fleet").joinpath("1.json").write_text("{}")
    private_folder(folder / "broker").joinpath("mosquitto.conf").write_text("made at each start")
    (folder / "coordinator.lock").write_text("17")
    return settings


def settings_of(folder: Path, *, database: str | None = None) -> CoordinatorSettings:
    """Return the settings that such a coordinator has."""
    return CoordinatorSettings(state_dir=folder, site="north", database=database, enrolment=EnrolmentTable(port=9444))


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
