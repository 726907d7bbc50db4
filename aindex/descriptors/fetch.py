"""Model files from the network, once: into the torch hub cache, under a checksum that is given or pinned."""

import hashlib
import http.client
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from aindex.data.atomic import replace_when_done
from aindex.data.images import one_line
from aindex.errors import ExtractorError
from aindex.terminal import bars_are_off

_CHUNK_BYTES = 1 << 20


def fetch(url: str, *, sha256: str | None = None, timeout_s: float = 30.0, progress: bool = True) -> Path:
    """The local copy of ``url``, fetched if it is not in ``torch.hub.get_dir()/checkpoints``.

    The first file accepted is pinned by its SHA-256 in ``<file>.sha256`` beside it; afterwards only that
    content is accepted. A download whose checksum is wrong never reaches the cache.

    Args:
        sha256: the hex digest that the file must have; it overrules the pin.
        timeout_s: seconds without an answer after which the network counts as absent.

    Raises:
        ExtractorError: the network is absent, or the content is not what it must be.
        OutputError: the cache cannot be written.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    pin = path.with_name(path.name + ".sha256")
    expected = sha256.lower() if sha256 else _read_pin(pin)
    if path.is_file():
        found = hash_file(path)
        if expected not in (None, found):
            pinned = "" if sha256 else f", and {pin.name} if a new content is meant"
            raise ExtractorError(
                f"cached model {str(path)!r} has SHA-256 {found}, expected {expected}: remove the file to "
                f"fetch it again{pinned}"
            )
    else:
        found = _download(url, path, expected=expected, timeout_s=timeout_s, progress=progress)
    if _read_pin(pin) is None and sha256 is None:
        with replace_when_done(pin) as temporary:
            temporary.write_text(found + "\n")
    return path


def hash_file(path: Path) -> str:
    """SHA-256 of a model file's bytes, hex."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ExtractorError(f"extractor file {str(path)!r} cannot be read: {one_line(error)}") from error


def _read_pin(pin: Path) -> str | None:
    return pin.read_text().strip().lower() if pin.is_file() else None


def _download(url: str, path: Path, *, expected: str | None, timeout_s: float, progress: bool) -> str:
    with replace_when_done(path) as temporary:
        with open(temporary, "wb") as file:
            for chunk in _stream(url, path, timeout_s=timeout_s, progress=progress):
                file.write(chunk)
        found = hash_file(temporary)
        if expected not in (None, found):
            raise ExtractorError(
                f"{url} has SHA-256 {found}, expected {expected}: not kept; check the checksum, or fetch the "
                "file from a source you trust and give its path as the extractor"
            )
    return found


def _stream(url: str, path: Path, *, timeout_s: float, progress: bool) -> Iterator[bytes]:
    # Each network call is guarded on its own: an error in what consumes the chunks is another matter.
    with _network_errors(url, path):
        response = urllib.request.urlopen(url, timeout=timeout_s)
    with response, tqdm(desc=path.name, unit="B", unit_scale=True, disable=bars_are_off(progress)) as bar:
        total = int(response.headers.get("Content-Length") or 0)
        bar.total = total or None
        received = 0
        while True:
            with _network_errors(url, path):
                chunk = response.read(_CHUNK_BYTES)
                if not chunk and received < total:
                    raise OSError(f"the connection ended after {received} of {total} bytes")
            if not chunk:
                return
            received += len(chunk)
            bar.update(len(chunk))
            yield chunk


@contextmanager
def _network_errors(url: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ExtractorError(
            f"cannot fetch {url}: {one_line(error)}; fetch it where there is a network and put it at "
            f"{str(path)!r}, or give its path as the extractor"
        ) from error
