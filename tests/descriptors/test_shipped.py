"""The extractor and the index that ship: whole, small, themselves."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from aindex.data.demo import demo_images
from aindex.descriptors.registry import WEIGHTS_DIR, load_extractor
from aindex.index.reference_index import ReferenceIndex

RECORDED = Path(__file__).with_name("demo_descriptors.npz")
SHIPPED_INDEX = WEIGHTS_DIR.parents[1] / "index" / "shipped"
DESCRIBE = """
import sys, numpy as np
from aindex.data.demo import demo_images
from aindex.descriptors.extraction import extract
from aindex.descriptors.registry import load_extractor
found = extract(demo_images(), load_extractor(), precision="fp32", num_workers=0, device="cpu", progress=False)
np.save(sys.argv[1], np.asarray(found.descriptors))
"""


def test_a_fresh_process_gives_the_recorded_descriptors_of_the_demo_pictures(tmp_path):
    """Recorded once by the same lines, float16 (see DESCRIBE)."""
    recorded = np.load(RECORDED)
    subprocess.run([sys.executable, "-c", DESCRIBE, str(tmp_path / "fts.npy")], check=True)
    described = np.load(tmp_path / "fts.npy")
    names = [path.name for path in demo_images()]
    rows = [names.index(name) for name in recorded["names"] if name in names]
    kept = [position for position, name in enumerate(recorded["names"]) if name in names]
    assert len(rows) >= 15, "a release of scikit-image without the pictures?"
    np.testing.assert_allclose(described[rows], recorded["descriptors"][kept].astype(np.float32), atol=1e-3)


def test_weights_are_small_and_described():
    extractor = load_extractor()
    assert (extractor.name, extractor.dim, extractor.input_size) == ("aindex_small", 256, 160)
    assert (WEIGHTS_DIR / "aindex_small.safetensors").stat().st_size <= 6_000_000
    card = (WEIGHTS_DIR / "aindex_small.md").read_text(encoding="utf-8")
    for word in ("Caltech-101", "CC BY 4.0", "seed", "commit", "Limits", "Licence"):
        assert word in card


def test_the_index_is_small_and_belongs_to_the_extractor():
    index = ReferenceIndex.open(SHIPPED_INDEX, load_extractor(), read_only=True)
    assert index.ntotal == 4000
    assert len(index.names) == 4000
    assert sum(path.stat().st_size for path in SHIPPED_INDEX.iterdir()) < 2_000_000
    for path in SHIPPED_INDEX.iterdir():
        assert b"/home" not in path.read_bytes()
        assert b"/root" not in path.read_bytes()


def test_the_index_holds_what_its_names_say(photographs):
    from aindex.descriptors.extraction import extract

    index = ReferenceIndex.open(SHIPPED_INDEX, read_only=True)
    positions = list(range(0, 4000, 400))
    paths = [photographs / "disc21" / "references" / index.names[position] for position in positions]
    found = extract(paths, load_extractor(), num_workers=0, device="cpu", progress=False)
    _, ids = index.search(np.asarray(found.descriptors), 3)
    # two pictures may share a code: then the smaller id comes first
    assert sum(position in row for position, row in zip(positions, ids.tolist(), strict=True)) >= 9
