"""`aindex index build|add|remove|info`: indexes as folders; `adopt|export|check` are for those of other programs."""

import json
from typing import Literal

import yaml  # type: ignore[import-untyped]

from aindex.cli import did_you_mean, fail
from aindex.collection.adopting import Adopted, adopt_index
from aindex.collection.building import Indexed, add_to_index, build_index, remove_from_index
from aindex.collection.equipment import SHIPPED, index_folder
from aindex.collection.exporting import check_against, export_index
from aindex.commands.functions import FunctionCommand
from aindex.index.reference_index import ReferenceIndex
from aindex.terminal import note


def info(index: str = SHIPPED, format: Literal["yaml", "json"] = "yaml") -> None:
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


def _tell_built(result: Indexed, output: str) -> None:
    index = result.index
    if result.note:
        note(result.note)
    several = "" if index.owners.is_one_to_one else f" of {index.pictures} pictures"
    added = f"{result.rows} rows added" if result.rows else "no rows added"
    print(f"{output}: {added}, {index.ntotal} rows{several} in all ({index.idx_factory})")
    if result.skipped.count:
        note(result.skipped.summary())


def _tell_added(result: Indexed, index: str) -> None:
    _tell_built(result, index)


def _tell_removed(result: tuple[ReferenceIndex, int], index: str) -> None:
    opened, removed = result
    print(f"{index}: {removed} pictures removed, {opened.pictures} pictures in all ({opened.idx_factory})")


def _tell_adopted(adopted: Adopted, source: str, output: str) -> None:
    index = adopted.index
    print(
        f"{output}: {index.ntotal} rows adopted ({index.idx_factory}, {index.metric}, dimension {index.dim})"
    )
    if adopted.encoded:
        print(f"{adopted.encoded} rows were not in the index of the source yet and were encoded here")
    if adopted.sampled:
        print(f"{adopted.near} of {adopted.sampled} pictures lie near their rows")
    else:
        print(
            f"the extractor was compared by its dimension alone: --sample PICTURES sees whether it made {source}"
        )


def _tell_exported(exported: ReferenceIndex, index: str, destination: str) -> None:
    print(f"{destination}: {exported.ntotal} rows of {index} ({exported.idx_factory})")


def _tell_checked(line: str) -> None:
    print(line)


ACTIONS = {
    "build": FunctionCommand(
        name="index build",
        function=build_index,
        tell=_tell_built,
        example="--output mine --like shipped --references holiday",
        defaults={"batch_size": 32},
    ),
    "add": FunctionCommand(
        name="index add",
        function=add_to_index,
        tell=_tell_added,
        example="--index mine --references more --prefix more/",
        defaults={"batch_size": 32},
    ),
    "remove": FunctionCommand(
        name="index remove",
        function=remove_from_index,
        tell=_tell_removed,
        example="beach/a.jpg d.png --index mine",
        positional="names",
    ),
    "info": FunctionCommand(name="index info", function=info, example="--index mine"),
    "adopt": FunctionCommand(
        name="index adopt",
        function=adopt_index,
        tell=_tell_adopted,
        example="production.faiss --output theirs --extractor sscd_disc_mixup --names rows.csv",
        defaults={"batch_size": 32},
    ),
    "export": FunctionCommand(
        name="index export", function=export_index, tell=_tell_exported, example="mine --to lance mine.lance"
    ),
    "check": FunctionCommand(
        name="index check", function=check_against, tell=_tell_checked, example="mine.lance --against mine"
    ),
}


def main(args: list[str]) -> None:
    """Run one of the actions."""
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: aindex index {'|'.join(ACTIONS)} [options]\n")
        for name, action in ACTIONS.items():
            print(f"  {name.ljust(6)}  {action.summary}")
        print("\naindex index build --help lists the options of build.")
        return
    if args[0] not in ACTIONS:
        meant = did_you_mean(args[0], ACTIONS)
        fail(f"aindex index {args[0]!r}{meant}: expected one of {', '.join(ACTIONS)}", code=2)
    ACTIONS[args[0]](_named(*args))


def _named(action: str, *given: str) -> list[str]:
    """A command line whose arguments all have options: the first may come without, and two may follow `--to`."""
    args = list(given)
    first = {"adopt": "--source", "check": "--source", "export": "--index"}.get(action)
    if first is not None and args and not args[0].startswith("-"):
        args = [first, *args]
    if action == "export" and "--to" in args:
        place = args.index("--to") + 2
        if place < len(args) and not args[place].startswith("-"):
            args = [*args[:place], "--destination", *args[place:]]
    return args
