"""Official foundation models on this machine: fetched once, and known by their checksum from then on.

No official source states the checksums of these files. The checksum of the first fetch is therefore recorded beside the
files, in the configuration folder of AiiDA (``mlfinetune/foundations/fetched.json``), shown to the user, and compared
whenever the file is used or fetched again. Nothing here opens a model file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from aiida.manage.configuration.settings import AiiDAConfigDir

from aiida_mlfinetune.common.errors import ModelError
from aiida_mlfinetune.data.download import download
from aiida_mlfinetune.science.models.official import OfficialModel, read_official_models

__all__ = ("OFFICIAL", "Fetched", "fetch", "fetched_by_sha256", "fetched_file", "official_model", "records")

OFFICIAL: dict[str, OfficialModel] = read_official_models(Path(__file__).parents[1] / "foundations" / "official.yaml")
"""The official foundation models by name."""
RECORDS_FILENAME = "fetched.json"
FIRST_BYTES = (b"PK", b"\x80")
"""How a file of torch starts: a zip archive, or a pickle in old files."""


@dataclass(frozen=True)
class Fetched:
    """What was recorded when a model was fetched.

    Attributes:
        sha256: of the file.
        size: of the file in bytes.
        source: address, or the path of the file that was brought.
        date: of the first fetch.
        accepted: name of the licence if it had to be accepted, else empty.
    """

    sha256: str
    size: int
    source: str
    date: str
    accepted: str


def foundations_folder() -> Path:
    """Return the folder of the fetched files and their records."""
    return AiiDAConfigDir.get() / "mlfinetune" / "foundations"


def records() -> dict[str, Fetched]:
    """Return what was fetched so far, by name.

    Raises:
        ModelError: the file of records cannot be read.
    """
    path = foundations_folder() / RECORDS_FILENAME
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: Fetched(**entry) for name, entry in content.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}, which records what was fetched, cannot be read: {error}") from error


def official_model(name: str) -> OfficialModel:
    """Return the entry of an official model.

    Raises:
        ModelError: no model of this name.
    """
    if name not in OFFICIAL:
        raise ModelError(f"no official model {name!r} is known: there are {', '.join(OFFICIAL)}")
    return OFFICIAL[name]


def fetch(
    name: str,
    *,
    accept_licence: bool = False,
    source: Path | None = None,
    report: Callable[[int, int | None], None] | None = None,
) -> tuple[Path, Fetched, bool]:
    """Fetch the file of an official model, or go on with an interrupted fetch.

    Args:
        name: of the model.
        accept_licence: the user accepts a licence that does not allow commercial use.
        source: a file that was fetched elsewhere, to be taken instead.
        report: called with the bytes that are there, and those of the whole file if they are known.

    Returns:
        The path of the file, its record, and whether its checksum was recorded just now for the first time.

    Raises:
        ModelError: no such model, a licence that is not accepted, or a file of another checksum than before.
        DownloadError: no connection, or one that broke.
    """
    model = official_model(name)
    known = records().get(name)
    licence = model.licence
    if not (licence.commercial or accept_licence or (known is not None and known.accepted == licence.name)):
        raise ModelError(
            f"{name} is under the {licence.title} ({licence.name}), which does not allow commercial use: read "
            f"{licence.address}, and accept it with --accept-licence"
        )
    path = foundations_folder() / f"{name}.model"
    if path.exists() and known is not None and source is None:
        return fetched_file(name)[0], known, False
    arrived = path.with_suffix(".unchecked")
    if source is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, arrived)
    else:
        download(model.url, arrived, report)
    try:
        record = _checked(model, arrived, source, known)
        arrived.replace(path)
    finally:
        arrived.unlink(missing_ok=True)
    if known is None:
        _write({**records(), name: record})
    return path, record, known is None


def _checked(model: OfficialModel, arrived: Path, source: Path | None, known: Fetched | None) -> Fetched:
    """Return the record of a file that has just arrived.

    Raises:
        ModelError: it is no model, or not the file that is known.
    """
    origin = model.url if source is None else str(source)
    with arrived.open("rb") as handle:
        if not handle.read(2).startswith(FIRST_BYTES):
            raise ModelError(f"{origin} is not a model file of torch: it was not kept")
    digest = sha256_of(arrived)
    expected = known.sha256 if known is not None else model.sha256
    if expected and digest != expected:
        said = f"recorded on {known.date}" if known is not None else "that its authors state"
        raise ModelError(
            f"{origin} has the sha256 {digest}, but the one {said} is {expected}: the file was changed, and was not "
            f"kept. If its authors announced a new file, remove {model.name!r} from "
            f"{foundations_folder() / RECORDS_FILENAME} and fetch it again"
        )
    if known is not None:
        return known
    accepted = "" if model.licence.commercial else model.licence.name
    return Fetched(digest, arrived.stat().st_size, origin, date.today().isoformat(), accepted)


def fetched_file(name: str) -> tuple[Path, Fetched]:
    """Return the file of a model that was fetched, and its record; the file is what it was when it was fetched.

    Raises:
        ModelError: no such model, one that was not fetched yet, or a file that was changed since.
    """
    official_model(name)
    path, record = foundations_folder() / f"{name}.model", records().get(name)
    if record is None or not path.exists():
        raise ModelError(f"the foundation {name!r} is not here: fetch it with `aiida-mlfinetune model fetch {name}`")
    if (digest := sha256_of(path)) != record.sha256:
        raise ModelError(
            f"{path} has the sha256 {digest}, but {record.sha256} was recorded when it was fetched on {record.date}: "
            f"the file was changed. Remove it, and run `aiida-mlfinetune model fetch {name}`"
        )
    return path, record


def fetched_by_sha256(digest: str) -> OfficialModel | None:
    """Return the official model whose file has a checksum: one that was recorded, or one that its authors state."""
    names = [name for name, record in records().items() if record.sha256 == digest and name in OFFICIAL]
    names += [name for name, model in OFFICIAL.items() if model.sha256 == digest]
    return OFFICIAL[names[0]] if names else None


def sha256_of(path: Path) -> str:
    """Return the checksum of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _write(found: dict[str, Fetched]) -> None:
    """Write the records, whole or not at all."""
    path = foundations_folder() / RECORDS_FILENAME
    fresh = path.with_suffix(".new")
    content = {name: asdict(record) for name, record in sorted(found.items())}
    fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
    fresh.replace(path)
