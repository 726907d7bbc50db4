"""`aindex augment`: edited copies of a folder's images, and what was done to each."""

from aindex.collection.augmenting import LINES_FILE, Edits, Format, augment
from aindex.commands.parsing import Needs, run_function
from aindex.edits import Template
from aindex.paths import possible_path, user_path
from aindex.terminal import note

_NEEDS = {"template": Needs("edits", ("default", "full", "unseen")), "copies": Needs("edits", ("auto",))}


def main(args: list[str]) -> None:
    """Parse and run."""
    run_function(
        augment_images,
        args,
        prog="aindex augment",
        example="aindex augment --data_dir released --output_dir copies --edits default",
        needs=_NEEDS,
    )


def augment_images(
    data_dir: str,
    output_dir: str,
    edits: Edits = "auto",
    copies: int = 1,
    seed: int = 0,
    template: Template = "web",
    format: Format = "png",
    num_workers: int = 2,
    progress: bool = True,
    overwrite: bool = False,
) -> None:
    """Write edited copies of images, and a JSON line about each of what was done.

    Copies go to images/ in output_dir, under their sources' names and subfolders; edits.jsonl holds a line per copy:
    name of the source, file of the copy, edits with all parameters. Images that cannot be read and copies whose edit
    fails are counted and listed in skipped.csv.

    Args:
        data_dir: images: a folder (with its subfolders) or a text file with one path per line.
        output_dir: where the files go; an empty or new folder outside of data_dir.
        edits: `auto` one to four random edits per copy; `default` each of the evaluation's fifteen attacks once per
            image; `full` each of its long list; `unseen` each of the list that no activation is trained against.
        copies: random copies per image.
        seed: of the random edits; they depend on it and on the image's name alone.
        template: screenshot template of the attack `overlay_onto_screenshot`; the paper used `mobile`.
        format: of the copies; png is lossless.
        num_workers: processes that edit; 0 edits in the main process.
        progress: show a bar.
        overwrite: replace what an earlier call left in output_dir.
    """
    result = augment(
        user_path(data_dir),
        possible_path(output_dir),
        edits=edits,
        copies=copies,
        seed=seed,
        template=template,
        format=format,
        num_workers=num_workers,
        progress=progress,
        overwrite=overwrite,
    )
    print(f"{output_dir}: {result.copies} copies of {result.images} images, described in {LINES_FILE}")
    for left_out in (result.skipped, result.failed):
        if left_out.count:
            note(left_out.summary())
