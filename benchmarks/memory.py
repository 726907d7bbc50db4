"""Memory of a run does not grow with its images: `aindex fit` with the fifteen edits on few images and on many.

    python benchmarks/memory.py --data disc21/train
    python benchmarks/memory.py --data disc21/train --counts 50 500 --side 64

Pictures of the folder are shrunk to the longer side, so that thousands take minutes; each count is a run of its own,
against the index that ships. Memory is anonymous (what is not a file's), at its peak, sampled ten times a second: of
the main process, and of it and its loader processes together (pages that these share count several times).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import machine, print_table

from aindex.data.images import list_images, read_image

PROGRAM = "from aindex.cli import main; main()"


def shrink(paths: list[Path], folder: Path, side: int) -> None:
    for number, path in enumerate(paths):
        image = read_image(path)
        image.thumbnail((side, side))
        image.save(folder / f"{number:06d}.png")


def family(pid: int) -> list[int]:
    """A process and all that come from it."""
    found = [pid]
    for member in found:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:  # it has just ended
                continue
    return found


def anonymous_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def run(data: Path, output: Path) -> dict[str, float]:
    options = {
        "data.data_dir": data,
        "index.path": "shipped",
        "output_dir": output,
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
        "report.html": "false",
    }
    command = [sys.executable, "-c", PROGRAM, "fit", *(f"--{key}={value}" for key, value in options.items())]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    main = together = 0.0
    while process.poll() is None:
        sizes = [anonymous_mib(pid) for pid in family(process.pid)]
        main, together = max(main, sizes[0]), max(together, sum(sizes))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"the run on {data} ended with {process.returncode}")
    return {"main": main, "together": together, "seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--side", type=int, default=96, help="longer side of the pictures, in pixels")
    options = parser.parse_args()
    paths, lines = list_images(options.data), []
    for count in options.counts:
        if count > len(paths):
            raise SystemExit(f"{options.data} holds {len(paths)} pictures: expected {count}")
        with tempfile.TemporaryDirectory() as folder:
            pictures = Path(folder, "pictures")
            pictures.mkdir()
            shrink(paths[:count], pictures, options.side)
            found = run(pictures, Path(folder, "run"))
        lines.append(
            [f"{count:,}", f"{found['main']:.0f}", f"{found['together']:.0f}", f"{found['seconds']:.0f}"]
        )
    print(machine(torch.device("cpu")))
    print_table(["images", "peak MiB, main process", "with its loaders", "s"], lines)


if __name__ == "__main__":
    main()
