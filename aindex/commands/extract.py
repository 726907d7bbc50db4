"""`aindex extract`: descriptors of a folder or list of images."""

from aindex.collection.equipment import Arithmetic, describing
from aindex.commands.parsing import run_function
from aindex.descriptors.registry import load_extractor
from aindex.descriptors.stored import extract_to_folder
from aindex.paths import possible_path, user_path
from aindex.terminal import note


def main(args: list[str]) -> None:
    """Parse and run."""
    run_function(
        extract_images,
        args,
        prog="aindex extract",
        example="aindex extract --data_dir pictures --output_dir fts --extractor sscd_disc_mixup",
    )


def extract_images(
    data_dir: str,
    output_dir: str,
    extractor: str = "aindex_small",
    resize_size: int | None = None,
    sha256: str | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    device: str = "auto",
    precision: Arithmetic = "fp32",
    progress: bool = True,
    overwrite: bool = False,
) -> None:
    """Describe images: fts.pth (a float tensor n×d) and filenames.txt (one per row, the same order).

    Killed and started again the same command goes on. Images that cannot be read are left out of both files and
    listed in skipped.csv.

    Args:
        data_dir: images: a folder (with its subfolders) or a text file with one path per line.
        output_dir: where the files go.
        extractor: a name (aindex_small, sscd_disc_mixup, sscd_disc_advanced, sscd_disc_large, dino_r50, dino_vits,
            isc_dt1, torchvision/<model>, timm/<model>) or the path of a TorchScript or .safetensors file.
        resize_size: side of the extractor's square input, pixels; default: the extractor's own.
        sha256: checksum that the extractor's file must have, hexadecimal.
        batch_size: images per call of the extractor.
        num_workers: threads that decode images; 0 decodes each when its turn comes.
        device: cpu, cuda, cuda:<number>; auto takes the GPU where there is one.
        precision: arithmetic of the extractor: fp32 for what an index is to hold; auto takes bf16 where the hardware
            has it, which is faster, and rounds.
        progress: show a bar.
        overwrite: replace descriptors that are in output_dir.
    """
    settings = describing(
        device=device, precision=precision, batch_size=batch_size, num_workers=num_workers, progress=progress
    )
    result = extract_to_folder(
        user_path(data_dir),
        load_extractor(extractor, resize_size=resize_size, sha256=sha256, device=settings.device or "cpu"),
        possible_path(output_dir),
        **settings._asdict(),
        overwrite=overwrite,
    )
    count, dim = result.descriptors.shape
    print(f"{output_dir}: {count} descriptors of dimension {dim}")
    if result.skipped.count:
        note(result.skipped.summary())
