"""Descriptor files that are broken, foreign or hostile."""

import os
import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from aindex.descriptors.files import read_descriptors
from tests.faults.table import Room, fault, truncate

DESCRIPTORS = "Descriptor files"


def rows(count: int = 6, dim: int = 16) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)


def saved(room: Room, array: np.ndarray, name: str = "fts.npy") -> Path:
    np.save(room.tmp / name, array)
    return room.tmp / name


@fault(DESCRIPTORS, "NaN in a row", error="has NaN or infinite values in row 3")
def nan(room: Room) -> None:
    array = rows()
    array[3, 0] = np.nan
    read_descriptors(saved(room, array))


@fault(DESCRIPTORS, "infinite values in a row", error="has NaN or infinite values in row 5")
def infinite(room: Room) -> None:
    array = rows()
    array[5, 15] = np.inf
    read_descriptors(saved(room, array))


@fault(DESCRIPTORS, "integers", error="holds int64 of shape (6, 16): expected a floating-point matrix")
def wrong_dtype(room: Room) -> None:
    read_descriptors(saved(room, rows().astype(np.int64)))


@fault(DESCRIPTORS, "another shape than n×d", error="of shape (6,): expected a floating-point matrix n×d")
def wrong_shape(room: Room) -> None:
    read_descriptors(saved(room, rows()[:, 0]))


@fault(DESCRIPTORS, "no rows", error="holds no descriptor")
def no_rows(room: Room) -> None:
    read_descriptors(saved(room, rows(0)))


@fault(DESCRIPTORS, "another dimension than the extractor's", error="of dimension 8, expected 16")
def wrong_dimension(room: Room) -> None:
    room.extract(room.good_pictures())
    room.command("index", "add", "--index", str(room.index), "--references", str(saved(room, rows(6, 8))))


@fault(
    DESCRIPTORS,
    "another number of names than rows",
    error="holds 2 names for 6 descriptors: expected one per row",
)
def wrong_rows(room: Room) -> None:
    (room.tmp / "names.txt").write_text("a\nb\n")
    given = ["--references", str(saved(room, rows())), "--names", str(room.tmp / "names.txt")]
    room.command("index", "add", "--index", str(room.index), *given)


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@fault(
    DESCRIPTORS,
    "a .pth with a foreign pickle: its code never runs",
    error="pickled objects, which are never loaded",
)
def foreign_pickle(room: Room) -> None:
    torch.save({"fts": _Hostile(room.tmp / "executed")}, room.tmp / "fts.pth")
    try:
        read_descriptors(room.tmp / "fts.pth")
    finally:
        assert not (room.tmp / "executed").exists()


@fault(
    DESCRIPTORS,
    "a bare pickle named .pt: its code never runs",
    error="pickled objects, which are never loaded",
)
def bare_pickle(room: Room) -> None:
    (room.tmp / "fts.pt").write_bytes(pickle.dumps(_Hostile(room.tmp / "executed")))
    try:
        read_descriptors(room.tmp / "fts.pt")
    finally:
        assert not (room.tmp / "executed").exists()


@fault(DESCRIPTORS, "a .npy of pickled objects", error="without pickled objects")
def object_array(room: Room) -> None:
    np.save(room.tmp / "fts.npy", np.array([_Hostile(room.tmp / "executed")], object), allow_pickle=True)
    try:
        read_descriptors(room.tmp / "fts.npy")
    finally:
        assert not (room.tmp / "executed").exists()


@fault(DESCRIPTORS, "a .npy that breaks off", error="cannot be read as a descriptor matrix")
def truncated_npy(room: Room) -> None:
    path = saved(room, rows(100))
    truncate(path)
    read_descriptors(path)


@fault(DESCRIPTORS, "a .pth that breaks off", error="cannot be read as a descriptor matrix")
def truncated_pth(room: Room) -> None:
    torch.save(torch.from_numpy(rows(100)), room.tmp / "fts.pth")
    truncate(room.tmp / "fts.pth")
    read_descriptors(room.tmp / "fts.pth")


@fault(DESCRIPTORS, "a .safetensors that breaks off", error="is not a whole safetensors file")
def truncated_safetensors(room: Room) -> None:
    save_file({"descriptors": torch.from_numpy(rows(100))}, room.tmp / "fts.safetensors")
    truncate(room.tmp / "fts.safetensors")
    read_descriptors(room.tmp / "fts.safetensors")


@fault(DESCRIPTORS, "no such file", error="does not exist: give one made by extract")
def missing(room: Room) -> None:
    read_descriptors(room.tmp / "nowhere.npy")


@fault(
    DESCRIPTORS, "another kind of file", error="expected a name that ends in .pth, .pt, .npy, .safetensors"
)
def other_kind(room: Room) -> None:
    (room.tmp / "fts.csv").write_text("1,2,3\n")
    read_descriptors(room.tmp / "fts.csv")
