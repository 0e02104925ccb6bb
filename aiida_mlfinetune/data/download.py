"""Fetch a file over HTTP, going on where an interrupted download stopped."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from aiida_mlfinetune import __version__
from aiida_mlfinetune.common.errors import DownloadError

__all__ = ("download",)

CHUNK_BYTES = 256 * 1024
TIMEOUT_S = 60.0
NOT_SATISFIABLE = 416
PARTIAL_CONTENT = 206


def download(
    url: str, path: Path, report: Callable[[int, int | None], None] | None = None, timeout: float = TIMEOUT_S
) -> None:
    """Fetch ``url`` to ``path``.

    What has arrived stays in ``path.part`` when the connection breaks, and ``path.part.json`` says which version of the
    file it is a part of (its ETag or date). The next call asks for the rest of that version; a server that has another
    one, or that cannot send parts, sends the whole file.

    Args:
        url: address of the file.
        path: where it goes; it is there only once it is complete.
        report: called with the bytes that are there, and those of the whole file if the server says so.
        timeout: seconds without an answer after which the connection is given up.

    Raises:
        DownloadError: no connection, an answer other than the file, or a connection that broke.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, state = (path.with_name(path.name + suffix) for suffix in (".part", ".part.json"))
    start, version = _what_is_there(part, state, url)
    request = Request(url, headers={"User-Agent": f"aiida-mlfinetune/{__version__}", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)
    try:
        response = urlopen(request, timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code == NOT_SATISFIABLE and start:
            part.unlink()
            return download(url, path, report, timeout)
        raise DownloadError(
            f"{urlsplit(url).netloc} answers {error.code} ({error.reason}) for {url}: the release may have moved; look "
            "for the file there, and import it with `aiida-mlfinetune model import FILE --trust`"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(_no_connection(url, error)) from error
    with response:
        _check_answer(url, response)
        total = _receive(url, response, part, state, start, report)
    if total is not None and part.stat().st_size != total:
        raise DownloadError(_broken(url, part, total))
    part.replace(path)
    state.unlink(missing_ok=True)
    return None


def _what_is_there(part: Path, state: Path, url: str) -> tuple[int, str]:
    """Return the bytes of an earlier download that can be gone on with, and the version that they are a part of."""
    try:
        known = json.loads(state.read_text(encoding="utf-8"))
        size = part.stat().st_size
    except (OSError, ValueError):
        return 0, ""
    if known.get("url") != url or not known.get("version"):
        return 0, ""
    return size, known["version"]


def _check_answer(url: str, response: Any) -> None:
    """Refuse what is not the file: a page to log in or to read, and a way there without encryption."""
    if url.startswith("https:") and not response.url.startswith("https:"):
        raise DownloadError(f"{url} leads to {response.url}, which is not encrypted: nothing was fetched")
    if response.headers.get_content_type() == "text/html":
        raise DownloadError(
            f"{url} answers with a web page instead of a file: a login page of this network, or a release that moved"
        )


def _receive(
    url: str, response: Any, part: Path, state: Path, start: int, report: Callable[[int, int | None], None] | None
) -> int | None:
    """Write what arrives, and return the size of the whole file, None if the server does not say it."""
    headers = response.headers
    resumed = response.status == PARTIAL_CONTENT and headers.get("Content-Range", "").startswith(f"bytes {start}-")
    if response.status == PARTIAL_CONTENT and not resumed:
        part.unlink(missing_ok=True)
        raise DownloadError(f"{url} was answered with another part than asked for: run the command again")
    length = headers.get("Content-Length")
    done = start if resumed else 0
    total = None if length is None else done + int(length)
    if not resumed:
        etag = headers.get("ETag", "")
        version = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
        state.write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")
    with part.open("ab" if resumed else "wb") as handle:
        while True:
            try:
                chunk = response.read(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                handle.flush()
                raise DownloadError(_broken(url, part, total)) from error
            if not chunk:
                return total
            handle.write(chunk)
            done += len(chunk)
            if report is not None:
                report(done, total)


def _no_connection(url: str, error: Exception) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    return (
        f"there is no connection to {urlsplit(url).netloc} ({reason}). Without internet here, fetch {url} on a machine "
        "that has it, bring the file, and name it with `aiida-mlfinetune model fetch NAME --from FILE`; the foundation "
        "ice-xtb needs no connection"
    )


def _broken(url: str, part: Path, total: int | None) -> str:
    size = "" if total is None else f" of {total}"
    return (
        f"the connection to {urlsplit(url).netloc} broke after {part.stat().st_size}{size} bytes: run the command "
        "again to go on from there"
    )
