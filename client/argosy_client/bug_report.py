"""`argosy-device bugreport`: what is known of this board, its daemon running or not, in one archive without secrets."""

from __future__ import annotations

import json
from pathlib import Path

from argosy_client.check.checks import examine
from argosy_client.check.readings import Wanted, read
from argosy_client.check.report import as_json
from argosy_client.settings import DeviceSettings
from argosy_common.bugreport import Report, files_below, journal_of, report_name, versions
from argosy_common.clock import Clock


def write_report(settings: DeviceSettings, target: Path, status: dict[str, object], clock: Clock) -> Path:
    """Write a report into `target`, a new file or a folder; return the file.

    Raises:
        StorageFailed, DiskFull: it cannot be written.
    """
    folder, now = settings.state_dir, clock.wall()
    report = Report("argosy-device bugreport")
    report.add("versions.json", versions)
    report.add("settings.json", lambda: settings.model_dump(mode="json"))
    report.add("status.json", lambda: status)
    report.add("check.json", lambda: json.loads(as_json(examine(read(folder, clock=clock, wanted=Wanted())))))
    report.add("files.txt", lambda: files_below(folder))
    report.add_end("worker/worker.log", folder / "worker" / "worker.log")
    report.add_end("worker/worker.log.1", folder / "worker" / "worker.log.1")
    report.add("journal.txt", lambda: journal_of("argosy-device"))
    if target.is_dir():
        target /= report_name(now)
    report.write(target, now)
    return target
