"""`aindex activate`: release pictures of one's own."""

from aindex.activation.presets import Effort
from aindex.activation.settings import DeltaSize
from aindex.collection.activating import BATCH_SIZE, activate
from aindex.collection.equipment import Arithmetic, describing
from aindex.collection.pictures import Format
from aindex.commands.parsing import Needs, run_function
from aindex.index.quantiser import Target

_NEEDS = {
    "rows": Needs("add", (True,)),
    "jpeg_quality": Needs("format", ("jpeg",)),
    "compress_level": Needs("format", ("png",)),
}


def main(args: list[str]) -> None:
    """Parse and run."""
    run_function(
        activate_pictures,
        args,
        prog="aindex activate",
        example="aindex activate --images holiday --out released --index mine --add true --min_psnr 40",
        needs=_NEEDS,
    )


def activate_pictures(
    images: str,
    out: str,
    index: str,
    add: bool = False,
    prefix: str = "",
    rows: int = 1,
    effort: Effort = "robust",
    min_psnr: float | None = None,
    scaling: float | None = None,
    iterations: int | None = None,
    target: Target | None = None,
    delta_size: DeltaSize | None = None,
    format: Format = "png",
    jpeg_quality: int = 95,
    compress_level: int = 6,
    seed: int = 0,
    extractor: str | None = None,
    resize_size: int | None = None,
    batch_size: int = BATCH_SIZE,
    num_workers: int = 2,
    device: str = "auto",
    precision: Arithmetic = "auto",
    progress: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
) -> None:
    """Write activated forms of pictures into another folder, in the same tree, with a manifest.

    The pictures themselves stay as they are. Interrupted, the same command goes on. Pictures that cannot be read or
    released are listed in skipped.csv and counted at the end.

    Args:
        images: a folder of pictures (with its subfolders), a list file (a path per line), or one picture.
        out: folder of the released pictures and of manifest.csv: new, empty, or of an earlier run of this command.
        index: the folder of the index that copies will be searched in (`aindex index build` makes one); `shipped` is
            the one that comes with aindex.
        add: put the originals into the index too, as the released pictures' rows.
        prefix: put before the names of the rows.
        rows: with add, most rows of each picture, in the cells that simulated edits of it fall into.
        effort: robust against many edits; fast, which takes a fraction of its time; or paper, the published settings.
        min_psnr: PSNR in dB that every released picture keeps, measured on the saved file (default: no budget).
        scaling: strength of the change, in just-noticeable differences (default: the effort's; so are the next three).
        iterations: gradient steps per picture.
        target: with effort paper, where the descriptor is drawn: `pq_recons` what the index stores for it,
            `ivf_cluster` the centroid of its coarse cell, `ivf_cluster_half` midway there, `ori_ft` the descriptor.
        delta_size: size at which the change is optimised: `image` the picture's own; `input` the extractor's, or a
            number, so many times that, so that the cost does not grow with the picture.
        format: png, webp, tiff (all lossless), or jpeg (loses some of the activation).
        jpeg_quality: 1 to 100.
        compress_level: of PNG, 0 (fast) to 9 (small); the pixels are the same.
        seed: of the start of the optimisation.
        extractor: name or path (default: the one that the index names).
        resize_size: side of the extractor's square input, pixels (default: the index's).
        batch_size: pictures per call of the extractor.
        num_workers: threads that decode and encode.
        device: cpu, cuda, cuda:<number>; auto takes the GPU where there is one.
        precision: arithmetic of the extractor; auto takes bf16 where the hardware has it.
        progress: show bars.
        overwrite: drop an earlier release in out.
        dry_run: write nothing, print what would be done.
    """
    result = activate(
        images,
        out,
        index=index,
        add=add,
        prefix=prefix,
        rows=rows,
        effort=effort,
        min_psnr=min_psnr,
        scaling=scaling,
        iterations=iterations,
        target=target,
        delta_size=delta_size,
        format=format,
        jpeg_quality=jpeg_quality,
        compress_level=compress_level,
        seed=seed,
        extractor=extractor,
        resize_size=resize_size,
        settings=describing(
            device=device,
            precision=precision,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        ),
        overwrite=overwrite,
        dry_run=dry_run,
    )
    if dry_run:
        print(result.table.to_string(index=False, na_rep="", max_rows=40))
    print(result.summary())
    if not dry_run:
        print(f"measures of each picture: {result.folder / 'manifest.csv'}")
