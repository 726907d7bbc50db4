"""Finished runs made up from a seed: what a real one would leave in its folder."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aindex.edits.named import Attack
from aindex.evaluation import analyses, copy_detection, examples, measures, retrieval, run_files
from aindex.evaluation.exhaustive import time_search

ATTACKS = (
    ("none", None),
    ("rotation", 25),
    ("contrast", 0.5),
    ("overlay_onto_screenshot", None),
    ("jpeg", 50),
)
NAMES = ("a<b>&\"'$x$.jpg", "NA", "bad\udcff.jpg", "<script>alert(1)</script>.png", "folder/e.jpg", "f.jpg")
KNEIGHBORS = 6
FIRST_ID = 40


def _retrieved(rng, true_ids, skill):
    """Sorted distances and ids; the true one is among them the more often, the higher the skill."""
    count = len(true_ids)
    ids = np.array([rng.permutation(FIRST_ID)[:KNEIGHBORS] for _ in range(count)])
    places = rng.geometric(skill, count) - 1
    for row, (place, true) in enumerate(zip(places, true_ids, strict=True)):
        if place < KNEIGHBORS and true >= 0:
            ids[row, place] = true
    distances = np.sort(rng.random((count, KNEIGHBORS)).astype(np.float32), axis=1)
    # a few equal distances, so that ties matter
    return distances.round(2), ids


def _evaluation(folder, rng, ids, *, attacks, skill, passive):
    name = run_files.passive_file if passive else str
    queries = [(i, attack, param) for attack, param in attacks for i in ids]
    true, edits = [i for i, *_ in queries], [Attack(*edit) for _, *edit in queries]
    distances, found = _retrieved(rng, true, skill)
    rows = retrieval.retrieval_rows(
        batch=0,
        image_index=true,
        attacks=edits,
        distances=distances,
        indices=found,
    )
    run_files.write_csv(rows, folder / name(measures.RETRIEVAL_FILE))
    count = len(true)
    rows = analyses.query_rows(
        image_index=true,
        attacks=edits,
        same_cell=rng.integers(0, 3, count) == rng.integers(0, 3, count),
        code_distance=rng.random(count),
        stored_distance=rng.random(count),
        exhaustive_rank=rng.integers(0, 3, count),
        scanned_rows=rng.integers(10, 40, count),
    )
    run_files.write_csv(rows, folder / name(measures.QUERIES_FILE))
    true = np.array([*ids, *[-1] * 8])
    distances, found = _retrieved(rng, true, skill)
    edits = [[{"name": "hflip"}]] * len(true)
    rows = copy_detection.copy_detection_rows(
        batch=0, image_index=true, edits=edits, distances=distances, indices=found
    )
    run_files.write_csv(rows, folder / name(measures.COPY_DETECTION_FILE))


def _index(folder, nprobe):
    row = {
        "extractor": "aindex_small",
        "idx_factory": "IVF4,PQ4x4",
        "metric": "L2",
        "nprobe": nprobe,
        "cells": 4,
        "kneighbors": KNEIGHBORS,
        "pictures": FIRST_ID + len(NAMES),
        "rows": FIRST_ID + 3 * len(NAMES),
        "rows_per_picture": 3.0,
        "bytes_per_picture": 13.5,
    }
    table = pd.DataFrame([row], columns=list(analyses.INDEX_COLUMNS))
    run_files.write_csv(table, folder / measures.INDEX_FILE)


def _examples(folder, rng, attacks):
    for position, name in enumerate(NAMES[:2]):
        original = rng.integers(0, 256, (40, 60 + 9 * position, 3), dtype=np.uint8)
        released = np.clip(original.astype(int) + rng.integers(-9, 10, original.shape), 0, 255)
        examples.save_example(
            folder / run_files.ASSETS_FOLDER,
            image_index=FIRST_ID + position,
            name=name,
            original=Image.fromarray(original),
            released=Image.fromarray(released.astype(np.uint8)),
            heatmap=rng.random((1, 40, 60)) if position == 0 else None,
            copies={Attack(*attack): Image.fromarray(original) for attack in attacks[:3]},
        )


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """A function that leaves a finished run in a new folder of the given name."""

    def make(label="run", *, seed=0, passive=True, attacks=ATTACKS, skill=0.6, nprobe=1):
        folder = tmp_path_factory.mktemp("runs") / label
        folder.mkdir()
        rng = np.random.default_rng(seed)
        ids = np.arange(FIRST_ID, FIRST_ID + len(NAMES))
        _evaluation(folder, rng, ids, attacks=attacks, skill=skill, passive=False)
        if passive:
            _evaluation(folder, np.random.default_rng(99), ids, attacks=attacks, skill=0.2, passive=True)
        count = len(ids)
        psnr = rng.uniform(36, 45, count)
        psnr[1] = np.inf
        images = analyses.image_rows(
            image_index=ids,
            names=NAMES,
            psnr_db=psnr,
            ssim=rng.uniform(0.9, 1, count),
            linf=rng.integers(5, 20, count),
            code_distance_original=rng.random(count),
            code_distance_released=rng.random(count),
            activation_seconds=rng.random(count),
        )
        run_files.write_csv(images, folder / measures.IMAGES_FILE)
        search = time_search(lambda *_: None, np.zeros((5, 2)), repeats=1)
        run_files.write_csv(search, folder / measures.SEARCH_FILE)
        _index(folder, nprobe)
        (folder / run_files.CONFIG_FILE).write_text(
            "# command: aindex fit --output_dir 'a <b>'\n# started: 2026-01-02 03:04 UTC\n"
            f"model:\n  target: </pre><b>pq_recons\nindex:\n  nprobe: {nprobe}\noutput_dir: {label}\n"
        )
        _examples(folder, rng, attacks)
        return folder

    return make
