"""`aindex compare`: finished runs side by side."""

from pathlib import Path

from aindex.commands.functions import FunctionCommand
from aindex.evaluation.comparison import LATEX_FILE, MARKDOWN_FILE, compare


def _tell(page: Path, runs: list[str]) -> None:
    folder = page.parent
    print(f"comparison of {len(runs)} run(s): {page}, tables {folder / MARKDOWN_FILE}, {folder / LATEX_FILE}")


main = FunctionCommand(
    name="compare",
    function=compare,
    tell=_tell,
    example="runs/passive runs/active --output_dir runs/compare",
    positional="runs",
    defaults={"output_dir": "runs/compare"},
)
