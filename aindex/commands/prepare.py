"""`aindex prepare`: the folders of a DISC21 experiment."""

from pathlib import Path

from aindex.commands.parsing import run_function
from aindex.data.disc21 import prepare


def main(args: list[str]) -> None:
    """Parse and run."""
    run_function(
        prepare_folders,
        args,
        prog="aindex prepare",
        example="aindex prepare --data_dir disc21 --output_dir disc21 --groundtruth disc21/dev_queries_groundtruth.csv",
    )


def prepare_folders(
    data_dir: str,
    output_dir: str,
    groundtruth: str,
    seed: int = 0,
    queries: int = 40_000,
    progress: bool = True,
) -> None:
    """Make references_10k, references_990k and queries_40k as symbolic links.

    Args:
        data_dir: folder with references/ and train/.
        output_dir: where the three folders go.
        groundtruth: csv of the dev queries: query, reference, without header; or with the header
            query_id,reference_id, blank where there is no match.
        seed: of the draw of queries_40k from train.
        queries: images in queries_40k, which match nothing; all of train if it holds fewer.
        progress: show a bar.
    """
    counts = prepare(
        Path(data_dir), Path(output_dir), Path(groundtruth), seed=seed, queries=queries, progress=progress
    )
    for folder, count in counts.items():
        print(f"{folder}: {count} images")
