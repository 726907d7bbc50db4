"""Indexes of other programs that cannot be taken over, and what cannot be given to them."""

import base64
import json
import sys
from pathlib import Path

import faiss
import lance
import numpy as np
import pyarrow as pa

from tests.faults.table import Room, copy_index, fault, file_of, truncate

ENGINES = "Indexes of other programs"
ROWS = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)


def adopt(room: Room, source: Path, *options: str) -> None:
    """Adopt with the tiny extractor."""
    try:
        room.command(
            *("index", "adopt", str(source), "--output", str(room.tmp / "theirs")),
            *("--extractor", str(room.script), "--resize_size=32", "--device=cpu", "--num_workers=0"),
            "--progress=false",
            *options,
        )
    finally:
        assert not (room.tmp / "theirs").exists(), "something was written"


def bare(room: Room, factory: str, dim: int = 16) -> Path:
    """A FAISS file that others made."""
    index = faiss.index_factory(dim, factory)
    index.train(np.resize(ROWS, (300, dim)))
    index.add(np.resize(ROWS, (300, dim)))
    faiss.write_index(index, str(room.tmp / "theirs.faiss"))
    return room.tmp / "theirs.faiss"


def rows(room: Room, *columns: str) -> Path:
    """A Lance dataset."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 16)
    table = pa.table({"vector": vectors, **{name: pa.array(["a"] * 300) for name in columns}})
    lance.write_dataset(table, str(room.tmp / "rows.lance"))
    return room.tmp / "rows.lance"


@fault(ENGINES, "a graph (HNSW)", error="there is nothing to draw a picture to")
def graph(room: Room) -> None:
    adopt(room, bare(room, "HNSW8"))


@fault(ENGINES, "a binary index", error="holds a binary index")
def binary(room: Room) -> None:
    faiss.write_index_binary(faiss.IndexBinaryFlat(64), str(room.tmp / "theirs.faiss"))
    adopt(room, room.tmp / "theirs.faiss")


@fault(ENGINES, "descriptors of another dimension", error="gives dimension 16")
def dimension(room: Room) -> None:
    adopt(room, bare(room, "IVF4,PQ4x4", dim=8))


@fault(ENGINES, "a FAISS file that breaks off", error="is no index that FAISS")
def truncated(room: Room) -> None:
    path = bare(room, "IVF4,PQ4x4")
    truncate(path)
    adopt(room, path)


@fault(ENGINES, "a FAISS file of a newer release", error="or update faiss if a newer one wrote it")
def newer(room: Room) -> None:
    path = bare(room, "IVF4,PQ4x4")
    path.write_bytes(b"IwZ9" + path.read_bytes()[4:])
    adopt(room, path)


@fault(ENGINES, "fewer names than rows", error="holds 2 names for 300 rows: expected one per row")
def names(room: Room) -> None:
    (room.tmp / "names.txt").write_text("a\nb\n")
    adopt(room, bare(room, "IVF4,PQ4x4"), "--names", str(room.tmp / "names.txt"))


@fault(ENGINES, "an index of other pictures, or another extractor", error="lie near their rows: extractor")
def sample(room: Room) -> None:
    pictures = room.good_pictures(3)
    (room.tmp / "names.txt").write_text("\n".join(f"P{i:06d}.png" for i in range(300)))
    adopt(room, bare(room, "IVF4,PQ4x4"), "--names", str(room.tmp / "names.txt"), "--sample", str(pictures))


@fault(ENGINES, "a Lance dataset without an index", error="has no index: expected IVF_PQ or IVF_FLAT")
def without_index(room: Room) -> None:
    adopt(room, rows(room, "name"))


@fault(ENGINES, "a Lance dataset with an index of another kind", error="has an index of the kind IVF_HNSW_SQ")
def other_kind(room: Room) -> None:
    path = rows(room, "name")
    lance.dataset(str(path)).create_index("vector", "IVF_HNSW_SQ", num_partitions=2)
    adopt(room, path)


@fault(ENGINES, "a Lance dataset without names", error="has no column 'name' for the names of its rows")
def without_names(room: Room) -> None:
    path = rows(room)
    lance.dataset(str(path)).create_index("vector", "IVF_FLAT", num_partitions=2)
    adopt(room, path)


@fault(ENGINES, "Lance is not installed", error="install it with pip install 'aindex[lance]'")
def not_installed(room: Room) -> None:
    path = rows(room)
    room.patch.setitem(sys.modules, "lance", None)
    adopt(room, path)


@fault(ENGINES, "a model of OpenSearch without its blob", error="holds no model_blob")
def no_blob(room: Room) -> None:
    (room.tmp / "model.json").write_text(json.dumps({"model_id": "m", "state": "training"}))
    adopt(room, room.tmp / "model.json")


@fault(ENGINES, "a model of OpenSearch whose blob breaks off", error="its model_blob is no FAISS index")
def half_a_blob(room: Room) -> None:
    blob = base64.b64encode(bare(room, "IVF4,PQ4x4").read_bytes()[:90]).decode()
    (room.tmp / "model.json").write_text(json.dumps({"model_blob": blob}))
    adopt(room, room.tmp / "model.json")


@fault(ENGINES, "the engine trained its index anew", error="has another quantiser than")
def trained_anew(room: Room) -> None:
    room.command("index", "check", str(bare(room, "IVF4,PQ4x4")), "--against", str(room.index))


@fault(ENGINES, "a damaged index is to be exported", error="it is damaged")
def damaged(room: Room) -> None:
    folder = copy_index(room)
    path = file_of(folder, "index")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    room.command("index", "export", str(folder), "--to", "faiss", str(room.tmp / "out.faiss"))


@fault(ENGINES, "something is there where the export should go", error="exists already: give another file")
def there_already(room: Room) -> None:
    (room.tmp / "out.faiss").write_text("a thesis")
    room.command("index", "export", str(room.index), "--to", "faiss", str(room.tmp / "out.faiss"))
