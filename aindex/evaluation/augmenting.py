"""Edited copies of a folder's images as files, and a JSON line about each of what was done."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from aindex.data.atomic import (
    exclusive,
    remove_leftovers,
    remove_leftovers_of,
    remove_tree,
    replace_when_done,
)
from aindex.data.images import (
    LEFT_OUT_COPIES,
    SkippedImages,
    image_names,
    list_images,
    names_root,
    read_image,
)
from aindex.data.loading import Failure, ProcessLoader, succeeded
from aindex.data.parts import PartFiles
from aindex.data.source_image import png_names
from aindex.edits.named import Attack, Template, apply_attack, attacks_of
from aindex.errors import AindexError, ConfigError, EditError, ImageReadError, OutputError
from aindex.evaluation.edited import random_copy, why_edit_failed
from aindex.seeding import derive_seed
from aindex.terminal import bars_are_off

LINES_FILE = "edits.jsonl"
_PROGRESS_FOLDER, _CALL_FILE, _COPIES = ".progress", "call.json", "copies"
SKIPPED_FILE = "skipped.csv"
IMAGES_FOLDER = "images"

Edits = Literal["auto", "default", "full", "unseen"]
Format = Literal["png", "jpg"]
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Augmented:
    """What became of a folder of images.

    Attributes:
        images: number of images that copies were made of.
        copies: number of files written.
        skipped: images that cannot be read.
        failed: copies whose edit failed.
    """

    images: int
    copies: int
    skipped: SkippedImages
    failed: SkippedImages


class _Copies(Dataset[Any]):
    """Writes all copies of an image; yields the lines about them, why it cannot be read, the copies whose edit failed.

    An attack that is None draws a random edit.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        folder: Path,
        attacks: Sequence[Attack | None],
        *,
        seed: int,
        template: Template,
        format: Format,
    ) -> None:
        self.paths, self.names, self.folder = paths, names, folder
        self.stems = [name.removesuffix(".png") for name in png_names(names)]
        self.attacks, self.seed, self.template, self.format = attacks, seed, template, format

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> dict[str, Any] | Failure:
        path = self.paths[position]
        lines: list[str] = []
        skipped: list[tuple[str, str]] = []
        failed: list[tuple[str, str]] = []
        try:
            image = read_image(path)
            for number in range(len(self.attacks)):
                try:
                    lines.append(self._make(image, position, number))
                except EditError as error:
                    failed.append(why_edit_failed(path, error))
        except ImageReadError as error:
            skipped.append((str(path), str(error)))
        except AindexError as error:
            return Failure(error)
        return {"lines": lines, "skipped": skipped, "failed": failed}

    def _make(self, image: Image.Image, position: int, number: int) -> str:
        """Write a copy; the line about it."""
        name, path, attack = self.names[position], self.paths[position], self.attacks[number]
        seed = derive_seed(self.seed, name, f"augment {number}" if attack is None else str(attack))
        if attack is None or attack.name == "auto":
            edited, edits = random_copy(image, path, seed=seed)
        else:
            edited = apply_attack(image, attack, seed=seed, template=self.template, name=str(path))
            edits = [] if attack.name == "none" else [_as_dict(attack, self.template)]
        suffix = str(number) if attack is None else str(attack).replace(" ", "_")
        stem = self.stems[position] if len(self.attacks) == 1 else f"{self.stems[position]}.{suffix}"
        file = f"{IMAGES_FOLDER}/{stem}.{self.format}"
        with replace_when_done(self.folder / file) as temporary:
            if self.format == "png":
                edited.save(temporary, format="PNG", compress_level=1)
            else:
                edited.save(temporary, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
        return json.dumps({"name": name, "file": file, "edits": edits}) + "\n"


def _as_dict(attack: Attack, template: Template) -> dict[str, Any]:
    described: dict[str, Any] = {"edit": attack.name}
    if attack.param is not None:
        described["param"] = attack.param
    if attack.name == "overlay_onto_screenshot":
        described["template"] = template
    return described


def _refuse_sources(output: Path, paths: Sequence[Path], root: Path | None) -> None:
    """Raise an OutputError if images would be written over, or later calls would edit the copies."""
    out = os.path.realpath(output) + os.sep
    if any(os.path.abspath(path).startswith((out, os.path.abspath(output) + os.sep)) for path in paths):
        raise OutputError(f"output_dir {str(output)!r} holds the images themselves: give another folder")
    if root is not None and out.startswith(os.path.realpath(root).rstrip(os.sep) + os.sep):
        raise OutputError(
            f"output_dir {str(output)!r} lies in the folder of the images, where the copies would count as images: "
            "give a folder outside of it"
        )


@contextmanager
def _claimed(output: Path, call: str, *, overwrite: bool) -> Iterator[None]:
    """Hold the folder alone, once nothing of anybody's is lost in it, and note there which call works in it.

    `call` is what decides the copies; an interrupted call with the same one goes on.
    """
    progress = output / _PROGRESS_FOLDER
    with exclusive(progress, wait=False):
        try:
            _claim(output, call, overwrite=overwrite)
        except OutputError:
            if not (progress / _CALL_FILE).is_file():
                remove_tree(progress)
            raise
        yield
        remove_tree(progress)


def _claim(output: Path, call: str, *, overwrite: bool) -> None:
    remove_leftovers_of([output / LINES_FILE, output / SKIPPED_FILE])
    present = {path.name for path in output.iterdir() if not path.name.startswith(f".{_PROGRESS_FOLDER}.")}
    foreign = sorted(present - {IMAGES_FOLDER, LINES_FILE, SKIPPED_FILE, _PROGRESS_FOLDER})
    if not foreign and not overwrite and (output / _PROGRESS_FOLDER / _CALL_FILE).is_file():
        if (output / _PROGRESS_FOLDER / _CALL_FILE).read_text() == call:
            return
        raise OutputError(
            f"output_dir {str(output)!r} holds the beginning of another call: repeat that one to finish it, give "
            "another folder, or pass --overwrite true to replace it"
        )
    if foreign or (present - {_PROGRESS_FOLDER} and not overwrite):
        way_out = "" if foreign else ", or pass --overwrite true to replace what an earlier call left there"
        raise OutputError(
            f"output_dir {str(output)!r} is not empty ({(foreign or sorted(present))[0]!r}): give another folder"
            + way_out
        )
    for name in (LINES_FILE, SKIPPED_FILE):
        (output / name).unlink(missing_ok=True)
    remove_tree(output / IMAGES_FOLDER)
    PartFiles(output / _PROGRESS_FOLDER, _COPIES).remove()
    with replace_when_done(output / _PROGRESS_FOLDER / _CALL_FILE) as temporary:
        temporary.write_text(call)


def augment(
    data_dir: Path,
    output_dir: Path,
    *,
    edits: Edits = "auto",
    copies: int = 1,
    seed: int = 0,
    template: Template = "web",
    format: Format = "png",
    num_workers: int = 0,
    progress: bool = False,
    overwrite: bool = False,
) -> Augmented:
    """Write edited copies of images, and a JSON line about each of what was done.

    `images/` holds the copies under their sources' names and subfolders, `edits.jsonl` a line per copy (`name` of
    the source, `file` of the copy, `edits` with all parameters), `skipped.csv` what could not be read. The copies
    depend on the seed and the images' names, not on the number of workers. A copy whose edit fails is left out, and
    stands in `skipped.csv` too. Interrupted, the same call goes on.

    Args:
        data_dir: images: a folder (with its subfolders) or a text file with one path per line.
        output_dir: where the files go; an empty or new folder outside of data_dir.
        edits: `auto` one to four random edits per copy; `default` each of the evaluation's fifteen edits once per
            image; `full` each of its long list; `unseen` each of the list that no activation is trained against.
        copies: random copies per image; 1 for the lists.
        seed: of the random edits; they depend on it and on the image's name alone.
        template: screenshot template of the edit `overlay_onto_screenshot`; the paper used `mobile`.
        format: of the copies; png is lossless.
        num_workers: processes that edit; 0 edits in the main process.
        progress: show a bar.
        overwrite: replace what an earlier call left in output_dir.

    Raises:
        DataError: no images.
        EditError: every edit failed, or the machine was the reason; it names the image and the edit.
        OutputError: `output_dir` is not empty, holds the images or lies among them, or cannot be written.
        ConfigError: a number of copies or workers that is not possible.
    """
    _check(edits, copies, num_workers)
    paths, root = list_images(data_dir), names_root(data_dir)
    names = image_names(paths, root)
    listed = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    call = json.dumps([edits, copies, seed, template, format, listed])
    _refuse_sources(output_dir, paths, root if os.path.isdir(data_dir) else None)
    attacks: Sequence[Attack | None] = [None] * copies if edits == "auto" else attacks_of(edits)
    dataset = _Copies(paths, names, output_dir, attacks, seed=seed, template=template, format=format)
    with _claimed(output_dir, call, overwrite=overwrite):
        remove_leftovers(output_dir / IMAGES_FOLDER)
        parts = PartFiles(output_dir / _PROGRESS_FOLDER, _COPIES)
        done = _finished(parts, output_dir)
        left = [position for position in range(len(paths)) if position not in done]
        loader = ProcessLoader(Subset(dataset, left), num_workers=num_workers, collate_fn=list)
        bar = tqdm(loader, total=len(left), disable=bars_are_off(progress), desc="augment", unit="image")
        for position, batch in zip(left, bar, strict=True):
            (record,) = succeeded(batch)
            parts.append(position, record)
        return _write(parts, output_dir)


def _finished(parts: PartFiles, output: Path) -> set[int]:
    """Positions of images all of whose copies are there; what is noted of the others is forgotten, and tried again."""
    done = {int(record["batch"]) for record in parts.records() if _is_whole(record, output)}
    if len(done) < len(parts.offsets()):
        kept = [record for record in parts.records() if int(record["batch"]) in done]
        parts.remove()
        for record in kept:
            parts.append(record.pop("batch"), record)
    return done


def _is_whole(record: Mapping[str, Any], output: Path) -> bool:
    files = (json.loads(line)["file"] for line in record["lines"])
    return not record["skipped"] and not record["failed"] and all((output / file).is_file() for file in files)


def _check(edits: Edits, copies: int, num_workers: int) -> None:
    if copies < 1 or (edits != "auto" and copies != 1):
        raise ConfigError(
            f"copies {copies} with edits {edits}: expected 1 or more, and 1 for a list of edits"
        )
    if num_workers < 0:
        raise ConfigError(f"num_workers {num_workers}: expected 0 or more")


def _write(parts: PartFiles, output: Path) -> Augmented:
    """The lines about all copies into one file, and the list of what could not be read or edited."""
    skipped, failed = SkippedImages(), SkippedImages(LEFT_OUT_COPIES)
    images = copies = 0
    with (
        replace_when_done(output / LINES_FILE) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        for record in parts.records():
            file.writelines(record["lines"])
            images, copies = images + bool(record["lines"]), copies + len(record["lines"])
            skipped.rows += map(tuple, record["skipped"])
            failed.rows += map(tuple, record["failed"])
        if failed.count and not copies:
            raise EditError(f"none of the {failed.count} edits was possible; {failed.rows[0][1]}")
    together = SkippedImages()
    together.rows = skipped.rows + failed.rows
    if together.count:
        together.write(output / SKIPPED_FILE)
    return Augmented(images, copies, skipped, failed)
