"""Pictures that come inside scikit-image's wheel, for a first run without any data."""

from importlib.util import find_spec
from pathlib import Path

from aindex.errors import DataError

DEMO_SOURCE = "skimage"
DEMO_PICTURES = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "color.png", "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png",
    "logo.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip


def demo_folder() -> Path:
    """The folder of scikit-image's pictures; nothing is downloaded.

    Raises:
        DataError: scikit-image is not installed.
    """
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DataError(
            "data_dir 'skimage' means the pictures inside scikit-image, which is not installed: "
            "pip install 'aindex[demo]', or give a folder of pictures"
        )
    return Path(spec.origin).parent / "data"


def demo_images() -> list[Path]:
    """The demonstration's pictures, those of them that this release of scikit-image ships.

    Raises:
        DataError: scikit-image is not installed or ships none of them.
    """
    folder = demo_folder()
    paths = [folder / name for name in DEMO_PICTURES if (folder / name).is_file()]
    if not paths:
        raise DataError(
            f"{str(folder)!r} holds none of the demonstration's pictures: install scikit-image ≥ 0.24"
        )
    return paths
