"""The small YAML that says what an index folder holds."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml  # type: ignore[import-untyped]

import aindex
from aindex.descriptors.extractor import Extractor
from aindex.errors import ExtractorError, FaissIndexError
from aindex.index.factory import Metric

FORMAT = "aindex-index"
FORMAT_VERSION = 2
"""Of an index with several rows per picture; of any other it is 1, which earlier releases read."""
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class ExtractorIdentity:
    """Which extractor made the descriptors.

    Attributes:
        name: for people.
        fingerprint: hash of weights, architecture and input size.
        input_size: R, pixels.
    """

    name: str
    fingerprint: str
    input_size: int

    @classmethod
    def of(cls, extractor: "NamedExtractor") -> Self:
        """The identity of an extractor."""
        return cls(extractor.name, extractor.fingerprint, extractor.input_size)

    def check(self, extractor: "NamedExtractor", where: str) -> None:
        """Raise an ExtractorError unless ``extractor`` has the same input size and weights."""
        if extractor.input_size != self.input_size:
            raise ExtractorError(
                f"{where} holds descriptors of {self.name!r} at input size {self.input_size}, not "
                f"{extractor.input_size}: take resize_size {self.input_size}, or build another index"
            )
        if extractor.fingerprint != self.fingerprint:
            raise ExtractorError(
                f"{where} holds descriptors of extractor {self.name!r} ({self.fingerprint[:12]}), not of "
                f"{extractor.name!r} ({extractor.fingerprint[:12]}): take that extractor, or build another index"
            )


NamedExtractor = Extractor | ExtractorIdentity


@dataclass(frozen=True)
class StoredFile:
    """A file of the folder: its name there, size in bytes, and SHA-256 (None: too large to be hashed)."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Description:
    """All that the YAML says, in its order.

    Attributes:
        nprobe: cells visited by a search unless it says otherwise.
        extractor: None if the descriptors' origin is not known.
        files: by role: ``index``, ``names``; ``owners`` if pictures have several rows; ``lists`` if the inverted lists
            stay on disk.
        versions: of aindex and FAISS, when written.
        calibration: the threshold of a match and how it was found, numbers and words.
        cache_key: hash of everything that decided a cached index.
    """

    idx_factory: str
    metric: Metric
    nprobe: int
    dim: int
    rows: int
    extractor: ExtractorIdentity | None = None
    files: dict[str, StoredFile] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    calibration: dict[str, float | int | str] | None = None
    cache_key: str | None = None

    def to_yaml(self) -> str:
        """The YAML text."""
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION if "owners" in self.files else 1,
            **asdict(self),
        }
        text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        return text

    @classmethod
    def from_yaml(cls, data: bytes, path: Path) -> Self:
        """Read and check the YAML's bytes, which come from ``path``.

        Raises:
            FaissIndexError: another kind of file, a newer format, a missing or mistyped entry.
        """
        content = _read_mapping(data, path)
        reader = _Reader(content, str(path))
        version = reader.get("format_version", int)
        if version > FORMAT_VERSION:
            raise FaissIndexError(
                f"{str(path)!r} has format version {version}: this aindex ({aindex.__version__}) reads up to "
                f"{FORMAT_VERSION}; update aindex"
            )
        metric = reader.get("metric", str)
        if metric not in ("L2", "IP"):
            raise reader.damaged(f"metric {metric!r}, expected L2 or IP")
        extractor = reader.optional("extractor", dict)
        files = reader.get("files", dict).items()
        return cls(
            idx_factory=reader.get("idx_factory", str),
            metric=metric,
            nprobe=reader.positive("nprobe"),
            dim=reader.positive("dim"),
            rows=reader.positive("rows", least=0),
            extractor=None if extractor is None else _read_extractor(_Reader(extractor, str(path))),
            files={str(role): _read_file(_Reader(file, str(path))) for role, file in files},
            versions={str(key): str(value) for key, value in reader.get("versions", dict).items()},
            calibration=reader.optional("calibration", dict),
            cache_key=reader.optional("cache_key", str),
        )


class _Reader:
    """Typed entries of a mapping that a stranger may have written."""

    def __init__(self, content: Any, where: str) -> None:
        self._where = where
        if not isinstance(content, dict):
            raise self.damaged(f"{content!r:.60}, expected a mapping")
        self._content = content

    def damaged(self, what: str) -> FaissIndexError:
        return FaissIndexError(f"{self._where!r} is damaged: {what}; build the index again, or restore it")

    def get(self, key: str, kind: type[Any]) -> Any:
        value = self._content.get(key)
        # A bool is an int to Python.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.damaged(f"{key} is {value!r:.60}, expected {kind.__name__}")
        return value

    def optional(self, key: str, kind: type[Any]) -> Any:
        return None if self._content.get(key) is None else self.get(key, kind)

    def positive(self, key: str, *, least: int = 1) -> int:
        value: int = self.get(key, int)
        if value < least:
            raise self.damaged(f"{key} is {value}, expected at least {least}")
        return value


def _read_mapping(data: bytes, path: Path) -> dict[str, Any]:
    try:
        # Text that a person looks at; YAML refuses other control characters itself.
        content = yaml.safe_load(data.decode()) if len(data) <= MAX_BYTES else None
    # Hostile YAML can also exhaust Python's stack.
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FaissIndexError(
            f"{str(path)!r} is no YAML: expected the description of an index; build it again"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FaissIndexError(
            f"{str(path)!r} is not the description of an index (no 'format: {FORMAT}'): give a folder that "
            "aindex index build made"
        )
    return content


def _read_extractor(reader: _Reader) -> ExtractorIdentity:
    return ExtractorIdentity(
        reader.get("name", str), reader.get("fingerprint", str), reader.positive("input_size")
    )


def _read_file(reader: _Reader) -> StoredFile:
    name = reader.get("name", str)
    # Nothing outside the folder is ever opened, whatever the YAML says.
    if name != Path(name).name or name in ("", ".", "..") or "\0" in name:
        raise reader.damaged(f"file name {name!r}, expected one without folders")
    return StoredFile(name, reader.positive("size", least=0), reader.optional("sha256", str))
