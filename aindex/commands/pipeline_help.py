"""What `--help` of the pipeline shows: what matters, in the order in which people need it."""

import textwrap
from collections.abc import Mapping, Sequence

ESSENTIAL: Mapping[str, Sequence[str]] = {
    "what is needed": (
        "data.data_dir",
        "index.path",
        "index.fts_training_path",
        "index.fts_reference_path",
        "index.idx_factory",
        "model.extractor",
    ),
    "what comes out": ("output_dir", "overwrite", "images.save_imgs", "report.html"),
    "activation": (
        "model.active",
        "model.iterations",
        "model.scaling",
        "model.min_psnr",
        "model.target",
        "model.loss_f",
    ),
    "evaluation": (
        "retrieval.passive",
        "retrieval.attacks",
        "retrieval.released_dir",
        "data.query_nonmatch_dir",
        "index.nprobe",
    ),
    "the machine": ("data.batch_size", "data.num_workers", "trainer.devices", "trainer.precision", "seed_everything"),
}  # fmt: skip
"""The options that matter, by what they are for."""

TITLES: Mapping[str, str] = {
    "data": "the images",
    "index": "the index that edited copies are searched in",
    "model": "activation: how the images are changed",
    "model.edits": "edits that activation draws copies by (with model.views)",
    "images": "released images",
    "retrieval": "evaluation: which edits, of which images",
    "report": "the report",
    "": "the run",
    "trainer": "Lightning's trainer: devices, precision, logging",
}
"""Of the groups of options, in their order; by the name that comes before the dot."""

_WIDTH = 110

EXAMPLES: Mapping[str, Sequence[str]] = {
    "fit": (
        "aindex fit --config configs/demo.yaml",
        "aindex fit --data.data_dir pictures --index.path shipped --retrieval.passive true",
        "aindex fit --config configs/ivf_pq.yaml --config configs/fast.yaml --data.data_dir refs_10k --index.fts_…",
    ),
    "evaluate": (
        "aindex evaluate --data.data_dir pictures --index.path shipped",
        "aindex evaluate --config runs/demo/config.yaml --retrieval.released_dir runs/demo/imgs --output_dir again",
    ),
    "train": ("aindex train --config configs/extractor.yaml --data.data_dir pictures",),
}


def short_help(prog: str, helps: Mapping[str, str], examples: Sequence[str]) -> str:
    """The options that matter, a line each, and examples; `helps` are the options' texts."""
    names = max(len(name) for group in ESSENTIAL.values() for name in group) + 2
    lines = [f"usage: {prog} [--config FILE …] --data.data_dir PICTURES --index.path INDEX [options]", ""]
    for title, group in ESSENTIAL.items():
        lines.append(f"{title}:")
        lines += [
            f"  {('--' + name).ljust(names)}  {_first(helps[name], _WIDTH - names - 4)}"
            for name in group
            if name in helps
        ]
    lines += ["", f"{prog} --help_all lists every option, with units and defaults.", "examples:"]
    return "\n".join([*lines, *(f"  {line}" for line in examples), ""])


def _first(text: str, width: int) -> str:
    """The first sentence, or as much of it as a line holds."""
    sentence = " ".join(text.split()).partition(". ")[0].rstrip(".")
    return textwrap.shorten(sentence, width, placeholder=" …")
