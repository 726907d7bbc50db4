"""`aindex compare`: finished runs side by side."""

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from aindex.commands.config_files import resolve_config_arguments
from aindex.commands.parsing import CONFIG_HELP, OneLineErrors
from aindex.errors import ConfigError
from aindex.evaluation.comparison import LATEX_FILE, MARKDOWN_FILE, compare


def main(args: list[str]) -> None:
    """Parse and run."""
    summary = (compare_runs.__doc__ or "").split("\n")[0]
    parser = OneLineErrors(prog="aindex compare", description=summary, allow_abbrev=False)
    parser.examples = ["aindex compare runs/passive runs/active --output_dir runs/compare"]
    parser.add_argument("-c", "--config", action=ActionConfigFile, help=CONFIG_HELP)
    parser.add_argument(
        "runs", nargs="+", type=str, help="Folders of finished runs (output_dir of fit or evaluate)."
    )
    parser.add_function_arguments(compare_runs, as_positional=False, skip={"runs"})
    parser.answer(args)
    options = parser.parse_args(resolve_config_arguments(args))
    compare_runs(options.runs, options.output_dir, examples=options.examples, overwrite=options.overwrite)


def compare_runs(
    runs: list[str], output_dir: str = "runs/compare", examples: int = 12, overwrite: bool = False
) -> None:
    """Set finished runs side by side: tables as Markdown and LaTeX, curves in one figure, one page.

    Args:
        runs: folders of finished runs.
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
