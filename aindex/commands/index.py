"""`aindex index build|add|remove|info`: indexes as folders; `adopt|export|check` are for those of other programs."""

import json
from collections.abc import Callable
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

from aindex.cli import did_you_mean
from aindex.collection.building import Duplicates, Indexed, add_to_index, build_index, remove_from_index
from aindex.collection.equipment import Arithmetic, describing, index_folder
from aindex.commands.engines import adopt, check, export, named
from aindex.commands.parsing import run_function
from aindex.errors import ConfigError
from aindex.index.factory import Metric
from aindex.index.reference_index import ReferenceIndex
from aindex.terminal import note

_EXAMPLES = {
    "build": "build --output mine --like shipped --references holiday",
    "add": "add --index mine --references more --prefix more/",
    "remove": "remove beach/a.jpg d.png --index mine",
    "info": "info --index mine",
    "adopt": "adopt production.faiss --output theirs --extractor sscd_disc_mixup --names rows.csv",
    "export": "export mine --to lance mine.lance",
    "check": "check mine.lance --against mine",
}

ACTIONS = tuple(_EXAMPLES)


def main(args: list[str]) -> None:
    """Run one of the actions."""
    actions: dict[str, Callable[..., Any]] = {
        "build": build,
        "add": add,
        "remove": remove,
        "info": info,
        "adopt": adopt,
        "export": export,
        "check": check,
    }
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: aindex index {'|'.join(actions)} [options]\n")
        for name, action in actions.items():
            print(f"  {name.ljust(6)}  {(action.__doc__ or '').splitlines()[0]}")
        print("\naindex index build --help lists the options of build.")
        return
    if args[0] not in actions:
        meant = did_you_mean(args[0], actions)
        error = ConfigError(f"aindex index {args[0]!r}{meant}: expected one of {', '.join(actions)}")
        error.exit_code = 2
        raise error
    positional = ("names", "names of pictures in the index") if args[0] == "remove" else None
    run_function(
        actions[args[0]],
        named(args[0], args[1:]),
        prog=f"aindex index {args[0]}",
        example=f"aindex index {_EXAMPLES[args[0]]}",
        positional=positional,
    )


def build(
    output: str,
    train: str | None = None,
    references: str | None = None,
    like: str | None = None,
    idx_factory: str | None = None,
    quant: Metric | None = None,
    nprobe: int | None = None,
    extractor: str | None = None,
    resize_size: int | None = None,
    names: str | None = None,
    rows: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 2,
    device: str = "auto",
    precision: Arithmetic = "auto",
    progress: bool = True,
    overwrite: bool = False,
) -> None:
    """Make an index folder over pictures or descriptors.

    Killed and started again the same command goes on. Pictures that cannot be read get no row and are counted.

    Args:
        output: the folder to make.
        train: what the quantiser is trained on, never the references: a folder of pictures, a list file (a path per
            line), a folder that `aindex extract` made, or a descriptor file (.pth, .pt, .npy, .safetensors).
        references: what becomes rows, in the same forms; left out, the index has none.
        like: an index folder whose trained quantiser is taken, instead of train; `shipped` is the one that comes with
            aindex.
        idx_factory: FAISS's factory string (default: Flat up to 1,000 pictures, beyond that IVF with a number of cells
            that suits pictures and training; with like: its own).
        quant: metric: L2 (squared Euclidean distance) or IP (inner product) (default: L2; with like: its own).
        nprobe: coarse cells visited per search (default: 1; with like: its own).
        extractor: name or path, see `aindex extract --help` (default: aindex_small; with like: its own).
        resize_size: side of the extractor's square input, pixels (default: the extractor's own).
        names: names of the rows where references is a descriptor file: a text file with one per line.
        rows: most rows of each picture, in the cells that simulated edits of it fall into; a picture is found once, at
            its nearest row. 1 is its own descriptor.
        seed: of the training, and of the simulated edits.
        batch_size: images per call of the extractor.
        num_workers: threads that decode images; 0 decodes each when its turn comes.
        device: cpu, cuda, cuda:<number>; auto takes the GPU where there is one.
        precision: arithmetic of the extractor; auto takes bf16 where the hardware has it.
        progress: show a bar.
        overwrite: replace an index that is in output.
    """
    result = build_index(
        output,
        train=train,
        references=references,
        like=like,
        idx_factory=idx_factory,
        quant=quant,
        nprobe=nprobe,
        extractor=extractor,
        resize_size=resize_size,
        names=names,
        rows=rows,
        seed=seed,
        settings=describing(
            device=device,
            precision=precision,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        ),
        overwrite=overwrite,
    )
    _report(output, result)


def add(
    index: str,
    references: str,
    extractor: str | None = None,
    resize_size: int | None = None,
    names: str | None = None,
    prefix: str = "",
    duplicates: Duplicates = "error",
    rows: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 2,
    device: str = "auto",
    precision: Arithmetic = "auto",
    progress: bool = True,
) -> None:
    """Append pictures or descriptors to an index folder.

    A crash leaves the old index or the new one. Pictures that cannot be read get no row and are counted.

    Args:
        index: the folder.
        references: what becomes rows: a folder of pictures, a list file, a folder that `aindex extract` made, or a
            descriptor file.
        extractor: name or path (default: the one that the index names).
        resize_size: side of the extractor's square input, pixels (default: the index's).
        names: names of the rows where references is a descriptor file: a text file with one per line.
        prefix: put before the new names, for folders whose pictures have the same names.
        duplicates: names that the index has already: `error`, `skip` them, or `add` them again.
        rows: most rows of each picture, in the cells that simulated edits of it fall into.
        seed: of the simulated edits.
        batch_size: images per call of the extractor.
        num_workers: threads that decode images; 0 decodes each when its turn comes.
        device: cpu, cuda, cuda:<number>; auto takes the GPU where there is one.
        precision: arithmetic of the extractor; auto takes bf16 where the hardware has it.
        progress: show a bar.
    """
    result = add_to_index(
        index,
        references,
        extractor=extractor,
        resize_size=resize_size,
        names=names,
        prefix=prefix,
        duplicates=duplicates,
        rows=rows,
        seed=seed,
        settings=describing(
            device=device,
            precision=precision,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        ),
    )
    _report(index, result)


def remove(index: str, names: list[str]) -> None:
    """Take pictures out of an index folder, with all their rows.

    A crash leaves the old index or the new one. The pictures after them move up: their rows get other numbers.

    Args:
        index: the folder.
        names: of the pictures; where a name is there several times all of them go.
    """
    opened, removed = remove_from_index(index, names)
    print(f"{index}: {removed} pictures removed, {opened.pictures} pictures in all ({opened.idx_factory})")


def info(index: str = "shipped", format: Literal["yaml", "json"] = "yaml") -> None:
    """Say what an index folder holds.

    Args:
        index: the folder; `shipped` is the one that comes with aindex.
        format: of the output.
    """
    content = ReferenceIndex.open(index_folder(index), read_only=True).info()
    if format == "json":
        print(json.dumps(content))
    else:
        print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), end="")


def _report(folder: str, result: Indexed) -> None:
    index = result.index
    if result.note:
        note(result.note)
    several = "" if index.owners.is_one_to_one else f" of {index.pictures} pictures"
    added = f"{result.rows} rows added" if result.rows else "no rows added"
    print(f"{folder}: {added}, {index.ntotal} rows{several} in all ({index.idx_factory})")
    if result.skipped.count:
        note(result.skipped.summary())
