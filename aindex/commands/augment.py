"""`aindex augment`: edited copies of a folder's images, and what was done to each."""

from aindex.commands.functions import FunctionCommand, Needs
from aindex.evaluation.augmenting import LINES_FILE, Augmented, augment
from aindex.paths import possible_path, user_path
from aindex.terminal import note


def _tell(result: Augmented, output_dir: str) -> None:
    print(f"{output_dir}: {result.copies} copies of {result.images} images, described in {LINES_FILE}")
    for left_out in (result.skipped, result.failed):
        if left_out.count:
            note(left_out.summary())


main = FunctionCommand(
    name="augment",
    function=augment,
    tell=_tell,
    example="--data_dir released --output_dir copies --edits default",
    defaults={"num_workers": 2, "progress": True},
    read={"data_dir": user_path, "output_dir": possible_path},
    needs={"template": Needs("edits", ("default", "full", "unseen")), "copies": Needs("edits", ("auto",))},
)
