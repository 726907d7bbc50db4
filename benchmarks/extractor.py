"""How well an extractor finds edited copies: exhaustive R@1 per edit, and passive R@1 in an IVF-PQ index.

    python benchmarks/extractor.py --references disc21/references --train disc21/train --queries 500

Queries are edited copies of some of the references; everything is as in the retrieval evaluation but that nothing is
activated. The average leaves out the screenshot.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from aindex.data.images import image_names, list_images
from aindex.data.loading import Failure
from aindex.descriptors.extraction import extract
from aindex.descriptors.inference import best_precision, fast_extractor
from aindex.descriptors.registry import load_extractor
from aindex.edits.named import default_attacks
from aindex.evaluation.edited import EditedPictures
from aindex.index.factory import set_nprobe, train_quantiser


def edited_descriptors(paths, names, extractor, *, seed, workers):
    """n images × 15 attacks × d."""
    attacks = default_attacks()
    dataset = EditedPictures(paths, names, attacks, size=extractor.input_size, seed=seed)
    fast = fast_extractor(extractor, device="cpu", precision=best_precision("cpu"))
    rows = []
    for item in DataLoader(dataset, batch_size=None, num_workers=workers):
        if isinstance(item, Failure):
            raise item.error
        with torch.no_grad():
            rows.append(fast(item.inputs).float().numpy())
    return np.stack(rows)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extractor", default="aindex_small")
    parser.add_argument("--resize_size", type=int)
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument("--train", type=Path, help="train an index on these pictures, and search in it too")
    parser.add_argument("--idx_factory", default="IVF128,PQ8x8")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.time()
    extractor = load_extractor(options.extractor, resize_size=options.resize_size)
    paths = list_images(options.references)
    found = extract(paths, extractor, num_workers=options.workers, progress=False)
    gallery = np.asarray(found.descriptors)
    if found.skipped.count:
        raise SystemExit(found.skipped.summary())
    names = image_names(paths, options.references)
    chosen = np.sort(np.random.default_rng(options.seed).permutation(len(paths))[: options.queries])
    queries = edited_descriptors(
        [paths[i] for i in chosen],
        [names[i] for i in chosen],
        extractor,
        seed=options.seed,
        workers=options.workers,
    )
    attacks = [str(attack) for attack in default_attacks()]
    table = pd.DataFrame(index=[*attacks, "average of fourteen"])
    nearest = {
        "exhaustive": np.stack([(queries[:, a] @ gallery.T).argmax(1) for a in range(len(attacks))], 1)
    }
    if options.train:
        training = extract(list_images(options.train), extractor, num_workers=options.workers, progress=False)
        index = train_quantiser(
            np.asarray(training.descriptors), options.idx_factory, "L2", seed=options.seed
        )
        set_nprobe(index, 1)
        index.add(np.ascontiguousarray(gallery))
        hits = index.search(np.ascontiguousarray(queries.reshape(-1, queries.shape[-1])), 1)[1]
        nearest[f"{options.idx_factory} nprobe 1"] = hits.reshape(queries.shape[:2])
    for name, ids in nearest.items():
        recalls = (ids == chosen[:, None]).mean(0)
        fourteen = [
            recall for recall, a in zip(recalls, attacks, strict=True) if a != "overlay_onto_screenshot"
        ]
        table[name] = [*recalls, np.mean(fourteen)]
    print(
        f"{extractor.name}, {extractor.input_size} px, {len(paths)} references, {len(chosen)} queries per edit"
    )
    print(table.round(3).to_string())
    print(f"{time.time() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(table.to_dict(), indent=1))


if __name__ == "__main__":
    main()
