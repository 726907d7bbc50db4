"""`aindex extract`: descriptors of a folder or list of images."""

from aindex.commands.functions import FunctionCommand
from aindex.descriptors.extraction import DEFAULTS, Extraction, ExtractionSettings
from aindex.descriptors.registry import DEFAULT_EXTRACTOR, load_extractor
from aindex.descriptors.stored import extract_to_folder
from aindex.paths import possible_path, user_path
from aindex.terminal import note


def extract_images(
    data_dir: str,
    output_dir: str,
    extractor: str = DEFAULT_EXTRACTOR,
    resize_size: int | None = None,
    sha256: str | None = None,
    settings: ExtractionSettings = DEFAULTS,
    overwrite: bool = False,
) -> Extraction:
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
        settings: device, precision and batch size.
        overwrite: replace descriptors that are in output_dir.
    """
    return extract_to_folder(
        user_path(data_dir),
        load_extractor(extractor, resize_size=resize_size, sha256=sha256, device=settings.device or "cpu"),
        possible_path(output_dir),
        settings,
        overwrite=overwrite,
    )


def _tell(result: Extraction, output_dir: str) -> None:
    count, dim = result.descriptors.shape
    print(f"{output_dir}: {count} descriptors of dimension {dim}")
    if result.skipped.count:
        note(result.skipped.summary())


main = FunctionCommand(
    name="extract",
    function=extract_images,
    tell=_tell,
    example="--data_dir pictures --output_dir fts --extractor sscd_disc_mixup",
    defaults={"batch_size": 32, "precision": "fp32"},
)
