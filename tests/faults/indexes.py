"""Index folders that are broken, foreign or not meant, and requests that an index cannot fulfil."""

from pathlib import Path

import numpy as np
import yaml

from aindex.collection.equipment import index_folder
from aindex.index.backend import import_faiss
from aindex.index.reference_index import ReferenceIndex
from aindex.matching.searching import search
from aindex.release.activating import activate
from tests.faults.table import QUIET, Room, copy_index, fault, file_of, truncate

INDEXES = "Indexes"


def rewrite(room: Room, **entries: object) -> None:
    """Open a copy whose YAML says something else."""
    folder = copy_index(room)
    content = yaml.safe_load((folder / "index.yaml").read_text())
    (folder / "index.yaml").write_text(yaml.safe_dump(content | entries))
    ReferenceIndex.open(folder)


def descriptors(count: int, dim: int = 16) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)


@fault(INDEXES, "no such folder", error="does not exist: build it with aindex index build")
def missing(room: Room) -> None:
    ReferenceIndex.open(room.tmp / "nowhere")


@fault(INDEXES, "a folder of other things", error="holds no index.yaml")
def not_an_index(room: Room) -> None:
    ReferenceIndex.open(room.good_pictures())


@fault(INDEXES, "the FAISS file breaks off", error="bytes, expected")
def truncated(room: Room) -> None:
    folder = copy_index(room)
    truncate(file_of(folder, "index"))
    ReferenceIndex.open(folder)


@fault(INDEXES, "a byte of the FAISS file changed", error="it is damaged")
def changed_byte(room: Room) -> None:
    path = file_of(copy_index(room), "index")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    ReferenceIndex.open(path.parent)


@fault(INDEXES, "the FAISS file is missing", error="lacks the file")
def missing_file(room: Room) -> None:
    path = file_of(copy_index(room), "index")
    path.unlink()
    ReferenceIndex.open(path.parent)


@fault(
    INDEXES,
    "an index of another dimension than the YAML says",
    error="of dimension 16, its index.yaml says 6 of dimension 99",
)
def other_dimension(room: Room) -> None:
    rewrite(room, dim=99)


@fault(INDEXES, "a newer format", error="has format version 99: this aindex")
def newer(room: Room) -> None:
    rewrite(room, format_version=99)


@fault(INDEXES, "another kind of YAML", error="is not the description of an index")
def foreign_yaml(room: Room) -> None:
    folder = copy_index(room)
    (folder / "index.yaml").write_text("model: 3\n")
    ReferenceIndex.open(folder)


@fault(INDEXES, "a mistyped entry in the YAML", error="rows is 'many', expected int")
def mistyped(room: Room) -> None:
    rewrite(room, rows="many")


@fault(INDEXES, "a YAML that names a file outside the folder", error="expected one without folders")
def file_outside(room: Room) -> None:
    rewrite(room, files={"index": {"name": "../../etc/passwd", "size": 1}, "names": {"name": "x", "size": 0}})


@fault(INDEXES, "the names break off", error="it is truncated or foreign")
def truncated_names(room: Room) -> None:
    path = file_of(copy_index(room), "names")
    truncate(path)
    ReferenceIndex.open(path.parent)


@fault(INDEXES, "another extractor", error="holds descriptors of")
def other_extractor(room: Room) -> None:
    room.command("index", "add", "--index", str(room.index), "--references", str(room.good_pictures()),
                 "--extractor", str(other_script(room)), "--num_workers", "0")  # fmt: skip


def other_script(room: Room) -> object:
    from tests.conftest import TinyNet, save_script

    return save_script(TinyNet(seed=5), room.tmp / "other.torchscript.pt")


@fault(INDEXES, "another input size", error="at input size 32, not 40: take resize_size 32")
def other_input_size(room: Room) -> None:
    room.command("search", "--index", str(room.index), "--resize_size", "40", str(room.good_pictures()))


@fault(INDEXES, "changed by another process since it was opened", error="was changed since it was opened")
def changed_meanwhile(room: Room) -> None:
    folder = copy_index(room)
    first, second = ReferenceIndex.open(folder), ReferenceIndex.open(folder)
    first.add(descriptors(1), ["a"])
    second.add(descriptors(1), ["b"])
    first.save(folder)
    second.save(folder)


@fault(INDEXES, "more neighbours than rows", error="on an index of 6 rows: expected 1 to 6")
def too_many_neighbours(room: Room) -> None:
    search(room.index, room.good_pictures(), k=7, settings=QUIET)


@fault(INDEXES, "a search in an index without rows", error="the index has no rows")
def no_rows(room: Room) -> None:
    search(
        ReferenceIndex.open(room.index).empty_copy(),
        room.good_pictures(),
        extractor=room.script,
        settings=QUIET,
    )


@fault(INDEXES, "a factory string that FAISS does not know", error="idx_factory 'IFV4,PQ4x4'")
def unknown_factory(room: Room) -> None:
    ReferenceIndex.train(descriptors(100), idx_factory="IFV4,PQ4x4")


@fault(INDEXES, "a code that does not divide the dimension", error="idx_factory 'PQ5x4'")
def indivisible(room: Room) -> None:
    ReferenceIndex.train(descriptors(100), idx_factory="PQ5x4")


@fault(
    INDEXES,
    "too few training pictures",
    error="10 training descriptors for idx_factory 'IVF64,PQ4x4': expected at least",
)
def too_few(room: Room) -> None:
    ReferenceIndex.train(descriptors(10), idx_factory="IVF64,PQ4x4")


@fault(INDEXES, "more cells to visit than there are", error="nprobe 9: expected 1 to 4")
def too_many_cells(room: Room) -> None:
    search(room.index, room.good_pictures(), nprobe=9, settings=QUIET)


@fault(INDEXES, "activation against an index that quantises nothing", error="an index that makes no choices")
def nothing_quantised(room: Room) -> None:
    index = ReferenceIndex.train(descriptors(100), idx_factory="Flat", extractor=room.extractor)
    activate(room.good_pictures(), room.tmp / "out", index=index, extractor=room.extractor, settings=QUIET)


@fault(INDEXES, "a FAISS file of another type under the right name", error="is no index that FAISS")
def other_type(room: Room) -> None:
    import hashlib

    folder = copy_index(room)
    path = file_of(folder, "index")
    path.write_bytes(b"not an index at all" * 10)
    content = yaml.safe_load((folder / "index.yaml").read_text())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    content["files"]["index"] |= {"size": path.stat().st_size, "sha256": sha256}
    (folder / "index.yaml").write_text(yaml.safe_dump(content))
    ReferenceIndex.open(folder)


@fault(INDEXES, "FAISS is not installed", error="aindex[cpu]")
def no_faiss(room: Room) -> None:
    import sys

    room.patch.setitem(sys.modules, "faiss", None)
    import_faiss()


@fault(INDEXES, "a picture of the same name is in the index already", error="names are in the index already")
def same_name(room: Room) -> None:
    folder = copy_index(room)
    for _ in range(2):
        room.command("index", "add", "--index", str(folder), "--references", str(room.good_pictures()),
                     "--num_workers", "0", "--progress", "false")  # fmt: skip


@fault(
    INDEXES, "a folder called shipped where one stands", treated="shipped is the index that comes with aindex"
)
def folder_called_shipped(room: Room) -> None:
    (room.tmp / "shipped").mkdir()
    room.patch.chdir(room.tmp)
    assert index_folder("shipped").is_absolute()
    assert index_folder("./shipped") == Path("./shipped")
