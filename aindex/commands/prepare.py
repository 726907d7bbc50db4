"""`aindex prepare`: the folders of a DISC21 experiment."""

from pathlib import Path

from aindex.commands.functions import FunctionCommand
from aindex.data.disc21 import prepare


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
    folders = Path(data_dir), Path(output_dir), Path(groundtruth)
    for folder, count in prepare(*folders, seed=seed, queries=queries, progress=progress).items():
        print(f"{folder}: {count} images")


main = FunctionCommand(
    name="prepare",
    function=prepare_folders,
    example="--data_dir disc21 --output_dir disc21 --groundtruth disc21/dev_queries_groundtruth.csv",
)
