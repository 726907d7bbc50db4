"""`aindex prepare`: the folders of a DISC21 experiment."""

from pathlib import Path

from aindex.commands.functions import FunctionCommand
from aindex.data.disc21 import prepare


def _tell(result: dict[Path, int]) -> None:
    for folder, count in result.items():
        print(f"{folder}: {count} images")


main = FunctionCommand(
    name="prepare",
    function=prepare,
    tell=_tell,
    example="--data_dir disc21 --output_dir disc21 --groundtruth disc21/dev_queries_groundtruth.csv",
)
