"""The figures of gpu.py as a section for RESULTS.md."""

from typing import Any

AIM = ("resnet50", "64", "paper", "eager", 0.8)
"""Of a/c."""

Record = dict[str, Any]


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def report(content: Record) -> str:
    """Markdown of what is there."""
    about, steps = content["about"], content["steps"]
    results = {name: record["result"] for name, record in steps.items() if "result" in record}
    lines = [f"## On {about.get('device', 'a CPU')}", ""]
    lines += [", ".join(f"{key} {value}" for key, value in about.items() if key != "device"), ""]
    if about["scale"] != "gpu":
        lines += ["**Small sizes on a CPU: that every step runs, and no figure to quote.**", ""]
    if "tests" in results:
        lines += _tests(results["tests"])
    lines += _speeds(results)
    for name, result in results.items():
        if name.startswith("profile"):
            lines += _profile(name, result)
    if "evaluation" in results:
        lines += _evaluation(results["evaluation"])
    lines += [f"- **failed**: {name}: {r['error']}" for name, r in steps.items() if "error" in r]
    lines += [f"- left out, no time: {name}" for name in content["left"]]
    return "\n".join(lines) + "\n"


def _tests(found: Record) -> list[str]:
    lines = [f"`pytest -m gpu`: {found['passed']} of {found['tests']} passed."]
    lines += [f"- **failed**: {name}: {message}" for name, message in found["failed"].items()]
    lines += [f"- skipped: {name}: {message}" for name, message in found["skipped"].items()]
    return [*lines, ""]


def _speeds(results: Record) -> list[str]:
    rows, verdict = [], []
    for name, r in results.items():
        if not name.startswith("speed"):
            continue
        _, extractor, batch, effort, form = name.split()
        rows.append(
            [
                extractor, batch, effort, form, r["precision"], f"{r['images_per_second']:.1f}",
                f"{r['limit_images_per_second']:.1f}", f"{r['a/c']:.2f}", f"{r['iterations a/c']:.2f}",
                f"{r['once_ms']:.1f}", f"{r['iteration_ms']:.2f}", f"{r['limit_ms']:.2f}", f"{r['peak_mib_added']:.0f}",
            ]
        )  # fmt: skip
        if (extractor, batch, effort, form) == AIM[:4]:
            reached = "reached" if r["a/c"] >= AIM[4] else "**falls short**"
            verdict = [
                "",
                f"Aimed at: a/c ≥ {AIM[4]} with ResNet-50, batch 64, bf16; came {r['a/c']:.2f}: {reached}.",
            ]
    if not rows:
        return []
    header = [
        "extractor", "batch", "settings", "extractor's form", "precision", "images/s (a)", "limit, images/s (c)", "a/c",
        "iterations a/c", "once, ms a batch", "iteration, ms", "limit, ms", "peak MiB added",
    ]  # fmt: skip
    return [*table(header, rows), *verdict, ""]


def _profile(name: str, r: Record) -> list[str]:
    rows = [
        [o["name"], f"{o['calls']:.0f}", f"{o['device_ms']:.3f}", f"{o['cpu_ms']:.3f}"]
        for o in r["operators"]
    ]
    head = (
        f"{name}: an iteration takes {r['iteration_ms']:.2f} ms under the profiler, the device is busy for "
        f"{r['busy_ms']:.2f} of them, {r['launches']:.0f} kernels are launched."
    )
    return [head, "", *table(["operator", "calls", "device, ms", "CPU, ms"], rows), ""]


def _evaluation(r: Record) -> list[str]:
    rows = [[name, f"{rate:.0f}"] for name, rate in r["copies_per_second"].items()]
    ratios = "; ".join(f"{name} {ratio:.2f}" for name, ratio in r["ratios"].items())
    head = f"Edited copies, {r['images']} images × 15, {r['workers']} CPU cores, {r['precision']}:"
    return [head, "", *table(["what", "copies/s"], rows), "", ratios, ""]
