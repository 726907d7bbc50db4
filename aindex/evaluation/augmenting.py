"""Edited copies of a folder's images as files, and a JSON line about each of what was done."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from aindex.data.loading import Failure, ProcessLoader
from aindex.data.parts import PartFiles
from aindex.data.source_image import png_names
from aindex.edits.named import Attack, Template, apply_attack, attacks_of
from aindex.edits.random_edit import apply_random_edits
from aindex.errors import AindexError, ConfigError, EditError, ImageReadError, OutputError
from aindex.evaluation.edited import why_edit_failed
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


@dataclass(frozen=True)
class _Copy:
    """One copy to make: its file, relative to the folder of images, and the edit; None draws a random edit."""

    file: str
    attack: Attack | None
    part: str


@dataclass(frozen=True)
class _Made:
    """What became of an image: the lines about its copies, why it cannot be read, the copies whose edit failed."""

    lines: Sequence[str] = ()
    skipped: Sequence[tuple[str, str]] = ()
    failed: Sequence[tuple[str, str]] = ()


class _Copies(Dataset[Any]):
    """Writes all copies of an image; yields what became of it."""

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        folder: Path,
        *,
        attacks: Sequence[Attack | None],
        seed: int,
        template: Template,
        format: Format,
    ) -> None:
        self.paths, self.names, self.folder = paths, names, folder
        self.stems = [name.removesuffix(".png") for name in png_names(names)]
        self.attacks, self.seed, self.template, self.format = attacks, seed, template, format

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> _Made | Failure:
        path = self.paths[position]
        lines: list[str] = []
        failed: list[tuple[str, str]] = []
        try:
            try:
                image = read_image(path)
            except ImageReadError as error:
                return _Made(skipped=[(str(path), str(error))])
            for copy in self._copies(self.stems[position]):
                try:
                    lines.append(self._make(image, position, copy))
                except EditError as error:
                    failed.append(why_edit_failed(path, error))
        except AindexError as error:
            return Failure(error)
        return _Made(lines, failed=failed)

    def _copies(self, stem: str) -> list[_Copy]:
        copies = []
        for number, attack in enumerate(self.attacks):
            part = f"augment {number}" if attack is None else str(attack)
            suffix = str(number) if attack is None else str(attack).replace(" ", "_")
            name = stem if len(self.attacks) == 1 else f"{stem}.{suffix}"
            copies.append(_Copy(f"{name}.{self.format}", attack, part))
        return copies

    def _make(self, image: Image.Image, position: int, copy: _Copy) -> str:
        seed = derive_seed(self.seed, self.names[position], copy.part)
        path = str(self.paths[position])
        edits: list[dict[str, Any]] = []
        if copy.attack is not None and copy.attack.name != "auto":
            edited = apply_attack(image, copy.attack, seed=seed, template=self.template, name=path)
            edits = [] if copy.attack.name == "none" else [_as_dict(copy.attack, self.template)]
        else:
            try:
                edited, edits = apply_random_edits(image, seed=seed)
            except EditError as error:
                raise EditError(f"{path}: {error}") from error
        with replace_when_done(self.folder / IMAGES_FOLDER / copy.file) as temporary:
            if self.format == "png":
                edited.save(temporary, format="PNG", compress_level=1)
            else:
                edited.save(temporary, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
        line = {"name": self.names[position], "file": f"{IMAGES_FOLDER}/{copy.file}", "edits": edits}
        return json.dumps(line) + "\n"


def _as_it_is(outcome: Any) -> Any:
    """Instead of the loader's own conversion, which makes lists of tuples."""
    return outcome


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

    Args:
        output: the folder.
        call: what decides the copies; an interrupted call that was the same goes on.
        overwrite: replace what an earlier call left.

    Raises:
        OutputError: something would be lost, or another command works there.
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
    dataset = _Copies(
        paths,
        names,
        output_dir,
        attacks=attacks,
        seed=seed,
        template=template,
        format=format,
    )
    with _claimed(output_dir, call, overwrite=overwrite):
        remove_leftovers(output_dir / IMAGES_FOLDER)
        parts = PartFiles(output_dir / _PROGRESS_FOLDER, _COPIES)
        done = _finished(parts, output_dir)
        left = [position for position in range(len(paths)) if position not in done]
        loader = ProcessLoader(
            Subset(dataset, left), batch_size=None, num_workers=num_workers, collate_fn=_as_it_is
        )
        bar = tqdm(loader, total=len(left), disable=bars_are_off(progress), desc="augment", unit="image")
        for position, outcome in zip(left, bar, strict=True):
            if isinstance(outcome, Failure):
                raise outcome.error
            parts.append(position, asdict(outcome))
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
