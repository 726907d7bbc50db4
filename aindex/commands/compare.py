"""`aindex compare`: finished runs side by side."""

from aindex.commands.functions import FunctionCommand
from aindex.errors import ConfigError
from aindex.evaluation.comparison import LATEX_FILE, MARKDOWN_FILE, compare


def compare_runs(
    runs: list[str], output_dir: str = "runs/compare", examples: int = 12, overwrite: bool = False
) -> None:
    """Set finished runs side by side: tables as Markdown and LaTeX, curves in one figure, one page.

    Args:
        runs: folders of finished runs (output_dir of fit or evaluate).
        output_dir: where compare.md, compare.tex, compare.csv, curves.png, curves.pdf and report.html go.
        examples: number of images to show, of those that all runs show.
        overwrite: replace an earlier comparison in output_dir.
    """
    if examples < 0:
        raise ConfigError(f"examples {examples}: expected 0 or more; the default is 12")
    page = compare(runs, output_dir, overwrite=overwrite, examples=examples)
    print(
        f"comparison of {len(runs)} run(s): {page}, tables {page.parent / MARKDOWN_FILE}, {page.parent / LATEX_FILE}"
    )


main = FunctionCommand(
    name="compare",
    function=compare_runs,
    example="runs/passive runs/active --output_dir runs/compare",
    positional="runs",
)
