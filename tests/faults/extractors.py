"""Extractors that are not there, damaged, or not what they should be."""

import hashlib
import io
import urllib.error
from typing import Any

import pytest
import torch
from torch import nn

from aindex.descriptors.registry import FETCHED, load_extractor
from aindex.errors import AindexError
from tests.conftest import CACHED, save_script
from tests.faults.table import Room, copy_index, fault, truncate

EXTRACTORS = "Extractors"


@fault(EXTRACTORS, "an unknown name", error="did you mean 'sscd_disc_mixup'?")
def unknown(room: Room) -> None:
    load_extractor("sscd_disc_mixip")


@fault(EXTRACTORS, "a file that is no TorchScript", error="is not a TorchScript file")
def not_torchscript(room: Room) -> None:
    (room.tmp / "model.pt").write_bytes(b"PK\x03\x04 but no model")
    load_extractor(room.tmp / "model.pt")


@fault(EXTRACTORS, "a pickled checkpoint in place of a TorchScript file", error="is not a TorchScript file")
def checkpoint(room: Room) -> None:
    torch.save({"state_dict": {}}, room.tmp / "model.pt")
    load_extractor(room.tmp / "model.pt")


@fault(EXTRACTORS, "a file that breaks off", error="is not a TorchScript file")
def truncated(room: Room) -> None:
    (room.tmp / "model.pt").write_bytes(room.script.read_bytes())
    truncate(room.tmp / "model.pt")
    load_extractor(room.tmp / "model.pt", resize_size=32)


class _Fixed(nn.Module):
    """Takes pictures of one size only."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3 * 32 * 32, 4), value))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1) @ self.weight


@fault(EXTRACTORS, "an input size that it cannot take", error="give the resize_size it was made for")
def wrong_size(room: Room) -> None:
    load_extractor(save_script(_Fixed(), room.tmp / "model.pt"), resize_size=64)


@fault(EXTRACTORS, "weights with NaN", error="returns NaN or infinite values: its weights are damaged")
def nan_weights(room: Room) -> None:
    load_extractor(save_script(_Fixed(float("nan")), room.tmp / "model.pt"), resize_size=32)


@fault(EXTRACTORS, "a file with another checksum than given", error=", expected " + "0" * 64)
def wrong_checksum(room: Room) -> None:
    load_extractor(room.script, resize_size=32, sha256="0" * 64)


@fault(EXTRACTORS, "a fetched model with another checksum: it never reaches the cache", error="not kept")
def fetched_with_wrong_checksum(room: Room) -> None:
    room.patch.setattr(torch.hub, "get_dir", lambda: str(room.tmp / "hub"))
    room.patch.setattr("urllib.request.urlopen", lambda *_, **__: _Response(b"something else"))
    try:
        load_extractor("sscd_disc_mixup", sha256="0" * 64)
    finally:
        assert not [path for path in (room.tmp / "hub").rglob("*") if path.is_file()]


@fault(EXTRACTORS, "a cached model whose content changed", error="remove the file to fetch it again")
def changed_in_the_cache(room: Room) -> None:
    room.patch.setattr(torch.hub, "get_dir", lambda: str(room.tmp / "hub"))
    cached = room.tmp / "hub" / "checkpoints" / FETCHED["sscd_disc_mixup"].rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(room.script.read_bytes())
    pin = hashlib.sha256(b"what was fetched first").hexdigest()
    cached.with_name(cached.name + ".sha256").write_text(pin)
    load_extractor("sscd_disc_mixup", resize_size=32)


class _Response(io.BytesIO):
    headers: dict[str, str] = {}  # noqa: RUF012


@fault(EXTRACTORS, "no network", error="or give its path as the extractor")
def no_network(room: Room) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("Name or service not known")

    room.patch.setattr(torch.hub, "get_dir", lambda: str(room.tmp / "hub"))
    room.patch.setattr("urllib.request.urlopen", refuse)
    load_extractor("sscd_disc_mixup")


@fault(
    EXTRACTORS,
    "the extractor that an index names is gone",
    error="the extractor that the index names cannot be loaded, give extractor",
)
def gone(room: Room) -> None:
    moved = room.tmp / "index"
    moved.mkdir()
    for path in room.index.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    text = (moved / "index.yaml").read_text()
    (moved / "index.yaml").write_text(text.replace(CACHED, "/gone/model.safetensors"))
    room.command("search", "--index", str(moved), str(room.good_pictures()))


@fault(
    EXTRACTORS,
    "an index that names a TorchScript file, which is a program: it is not loaded unless it is given",
    error="could do anything on this machine: give it as extractor if you trust it",
)
def named_by_an_index(room: Room) -> None:
    moved = copy_index(room, "moved")
    victim = room.tmp / "victim"
    victim.write_text("whole")
    save_script(_Writing(str(victim)), moved / "model.pt")
    text = (moved / "index.yaml").read_text()
    room.patch.chdir(room.tmp)
    (moved / "model").write_bytes((moved / "model.pt").read_bytes())
    for name in ("moved/model.pt", "moved/model", str(moved / "model.pt")):
        (moved / "index.yaml").write_text(text.replace(CACHED, name))
        for command in (
            ["search", str(room.good_pictures())],
            ["activate", "--images", "pictures", "--out", "out"],
            ["index", "add", "--references", "pictures"],
            ["calibrate", "--negatives", "pictures"],
        ):
            with pytest.raises(AindexError, match="a TorchScript file"):
                room.command(*command, "--index", str(moved))
    assert victim.read_text() == "whole"
    room.command("index", "build", "--like", str(moved), "--output", "like")


class _Writing(nn.Module):
    """What TorchScript may do."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        torch.save(pixels, self.path)
        return pixels.mean((2, 3)).repeat(1, 6)[:, :16]
