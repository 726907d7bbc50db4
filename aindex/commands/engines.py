"""`aindex index adopt|export|check`: indexes of other programs."""

from aindex.collection.adopting import adopt_index
from aindex.collection.equipment import Arithmetic, describing
from aindex.collection.exporting import Form, check_against, export_index


def adopt(
    source: str,
    output: str,
    extractor: str,
    resize_size: int | None = None,
    names: str | None = None,
    rows: bool = True,
    sample: str | None = None,
    nprobe: int | None = None,
    column: str | None = None,
    name_column: str | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    device: str = "auto",
    precision: Arithmetic = "auto",
    progress: bool = True,
    overwrite: bool = False,
) -> None:
    """Make an index folder of an index that others trained.

    Args:
        source: a FAISS file; a Lance dataset (folder or URI) with an IVF_PQ or IVF_FLAT index; a JSON file with the
            model_blob of OpenSearch's k-NN plugin. May stand without its option: `aindex index adopt SOURCE …`.
        output: the folder to make.
        extractor: name or path of what made the descriptors, see `aindex extract --help`.
        resize_size: side of the extractor's square input, pixels (default: the extractor's own).
        names: names of the rows: a text file with one per line in the order of the ids, or a csv or Parquet file with
            the columns id and name (default: a dataset's column of names, else the ids).
        rows: take the rows as well; false takes what is trained alone.
        sample: a folder of indexed pictures, named as in the index, or what `aindex extract` made of them: see that
            they lie near their rows.
        nprobe: coarse cells visited per search (default: the source's, or 1).
        column: column of the descriptors, where a dataset has several indexes.
        name_column: column of the names in a dataset (default: name).
        batch_size: images per call of the extractor.
        num_workers: processes that decode images; 0 decodes in the main process.
        device: cpu, cuda, cuda:<number>; auto takes the GPU where there is one.
        precision: arithmetic of the extractor; auto takes bf16 where the hardware has it.
        progress: show a bar.
        overwrite: replace an index that is in output.
    """
    adopted = adopt_index(
        source,
        output,
        extractor=extractor,
        resize_size=resize_size,
        names=names,
        rows=rows,
        sample=sample,
        nprobe=nprobe,
        column=column,
        name_column=name_column,
        settings=describing(
            device=device,
            precision=precision,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        ),
        overwrite=overwrite,
    )
    index = adopted.index
    print(
        f"{output}: {index.ntotal} rows adopted ({index.idx_factory}, {index.metric}, dimension {index.dim})"
    )
    if adopted.encoded:
        print(f"{adopted.encoded} rows were not in the index of the source yet and were encoded here")
    if adopted.sampled:
        print(f"{adopted.near} of {adopted.sampled} pictures lie near their rows")
    else:
        print(
            f"the extractor was compared by its dimension alone: --sample PICTURES sees whether it made {source}"
        )


def export(
    index: str, to: Form, destination: str, descriptors: str | None = None, overwrite: bool = False
) -> None:
    """Write an index as a FAISS file or a Lance dataset: `export DIR --to faiss FILE`, `export DIR --to lance DATASET`.

    Args:
        index: the index folder; `shipped` is the one that comes with aindex. May stand without its option.
        to: `faiss`: a file, and names.parquet beside it; `lance`: a dataset with the columns id, name and descriptor,
            indexed with the same centroids, codebook and codes. DESTINATION may stand behind it.
        destination: the file, or the folder of the dataset.
        descriptors: of the rows, for a dataset's column: a folder that `aindex extract` made, or a descriptor file in
            the order of the rows (default: the column is empty).
        overwrite: replace what is there.
    """
    exported = export_index(index, to, destination, descriptors=descriptors, overwrite=overwrite)
    print(f"{destination}: {exported.ntotal} rows of {index} ({exported.idx_factory})")


def check(source: str, against: str, column: str | None = None) -> None:
    """See that an engine's index still is the one that pictures were activated against.

    Args:
        source: what `aindex index adopt` takes. May stand without its option.
        against: the index folder.
        column: column of the descriptors, where a dataset has several indexes.
    """
    print(check_against(source, against, column=column))


def named(action: str, args: list[str]) -> list[str]:
    """A command line whose arguments all have options: the first may come without, and two may follow `--to`."""
    first = {"adopt": "--source", "check": "--source", "export": "--index"}.get(action)
    if first is not None and args and not args[0].startswith("-"):
        args = [first, *args]
    if action == "export" and "--to" in args:
        place = args.index("--to") + 2
        if place < len(args) and not args[place].startswith("-"):
            args = [*args[:place], "--destination", *args[place:]]
    return args
