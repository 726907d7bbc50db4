"""Factory strings to trained, empty indexes."""

import re
import warnings
from typing import Any, Literal

import numpy as np

from aindex.descriptors.files import Matrix, check_descriptors
from aindex.errors import FaissIndexError
from aindex.index.backend import FaissIndex, faiss_errors, faiss_reason, import_faiss
from aindex.index.devices import Device, coarse_training_on
from aindex.index.structure import IndexParts, take_apart
from aindex.seeding import derive_seed

Metric = Literal["L2", "IP"]
"""Squared Euclidean distance, or inner product: larger is closer."""

# FAISS's own constants: k-means uses at most 256 points per centroid and complains below 39.
_POINTS_WANTED = 256
_POINTS_RECOMMENDED = 39
_ROWS_WANTED_AT_LEAST = 65_536
_EXAMPLES = "for example 'IVF4096,PQ8x8', 'IVF1024,Flat', 'OPQ8_64,IVF4096,PQ8x8' or 'PCA64,LSH'"


def make_index(dim: int, idx_factory: str, metric: Metric = "L2") -> FaissIndex:
    """An untrained, empty index by FAISS's factory string.

    Raises:
        FaissIndexError: FAISS cannot parse the string, or it does not fit the dimension or the metric.
    """
    faiss = import_faiss()
    if metric not in ("L2", "IP"):
        raise FaissIndexError(f"metric {metric!r}: expected 'L2' or 'IP'")
    # FAISS ends the process on some of these.
    if re.search(r"(?<![\d.])0+(?![\d.])", idx_factory):
        raise FaissIndexError(f"idx_factory {idx_factory!r} holds a number 0: expected numbers of 1 and more")
    number = faiss.METRIC_L2 if metric == "L2" else faiss.METRIC_INNER_PRODUCT
    try:
        index = faiss.index_factory(dim, idx_factory, number)
        parts = take_apart(index)
    except MemoryError as error:
        raise FaissIndexError(
            f"idx_factory {idx_factory!r} needs more memory than there is: take fewer cells"
        ) from error
    except (RuntimeError, TypeError) as error:
        raise FaissIndexError(_factory_message(dim, idx_factory, metric, error)) from error
    _check_transforms(parts, idx_factory)
    return index


def train_quantiser(
    descriptors: Matrix,
    idx_factory: str,
    metric: Metric = "L2",
    *,
    seed: int = 0,
    device: Device = "cpu",
) -> FaissIndex:
    """A trained, empty index.

    A file mapped into memory is not read whole where FAISS would use a sample only: the sample is then drawn
    here, seeded. The same descriptors, seed and number of threads give the same index.

    Args:
        descriptors: n×d; never those of the references.
        idx_factory, metric: as for :func:`make_index`.
        seed: of the sample and of k-means.
        device: where k-means of the coarse cells runs.

    Raises:
        FaissIndexError: the factory is not possible, or needs more training descriptors.
        DescriptorError: the descriptors are no finite matrix n×d.
    """
    descriptors = check_descriptors(descriptors, where="the training descriptors")
    index = make_index(descriptors.shape[1], idx_factory, metric)
    parts = take_apart(index)
    _require_rows(parts, idx_factory, len(descriptors))
    recommended = _POINTS_RECOMMENDED * max([0, *_centroid_counts(parts)])
    if len(descriptors) < recommended:
        warnings.warn(
            f"{len(descriptors)} training descriptors for idx_factory {idx_factory!r}: FAISS recommends {recommended}; "
            "the index works, but its cells and codes fit other descriptors less well",
            stacklevel=2,
        )
    sample = training_sample(descriptors, rows_wanted(parts), seed=seed)
    if hasattr(parts.core, "do_polysemous_training"):
        # It only renumbers the centroids, for a kind of search that is not used here, and takes longest of all.
        parts.core.do_polysemous_training = False
    held = _seed_clusterings(parts, derive_seed(seed, "faiss") & 0x7FFFFFFF)
    with (
        faiss_errors(
            f"idx_factory {idx_factory!r} cannot be trained on {len(sample)} descriptors of dimension {index.d}",
            "give more training descriptors, or take fewer cells or smaller codes",
        ),
        coarse_training_on(device, parts),
    ):
        index.train(sample)
    for transform, _ in held:
        transform.pq = None
    return index


def check_plan(
    dim: int, idx_factory: str, metric: Metric, *, nprobe: int | None = None, rows: int | None = None
) -> None:
    """Refuse what training would refuse, before anything is described for it.

    Args:
        dim, idx_factory, metric: as for :func:`make_index`.
        nprobe: coarse cells that a search is to visit; None for as many as there are by default.
        rows: number of training descriptors, or of pictures that they will be made of; None where it is not known.

    Raises:
        FaissIndexError: the factory, nprobe or so few rows are not possible.
    """
    index = make_index(dim, idx_factory, metric)
    if nprobe is not None:
        set_nprobe(index, nprobe)
    if rows is not None:
        _require_rows(take_apart(index), idx_factory, rows)


def set_nprobe(index: FaissIndex, nprobe: int) -> None:
    """Set the number of coarse cells that a search visits, also where a transform hides them.

    Raises:
        FaissIndexError: less than 1, more than there are cells, or more than 1 where there are none.
    """
    parts = take_apart(index)
    if parts.ivf is None:
        if nprobe != 1:
            raise FaissIndexError(f"nprobe {nprobe}: this index has no cells ({parts.kind}); expected 1")
        return
    if not 1 <= nprobe <= parts.ivf.nlist:
        raise FaissIndexError(
            f"nprobe {nprobe}: expected 1 to {parts.ivf.nlist}, the number of cells of the index"
        )
    parts.ivf.nprobe = nprobe


def get_nprobe(index: FaissIndex) -> int:
    """The number of coarse cells that a search visits; 1 where there are none."""
    ivf = take_apart(index).ivf
    return 1 if ivf is None else int(ivf.nprobe)


def training_sample(descriptors: Matrix, rows: int, *, seed: int) -> Matrix:
    """At most ``rows`` rows, drawn without replacement with the seed, in their order."""
    if len(descriptors) <= rows:
        return descriptors
    rng = np.random.default_rng(derive_seed(seed, "training sample"))
    chosen = np.sort(rng.choice(len(descriptors), rows, replace=False))
    return np.ascontiguousarray(descriptors[chosen])


def rows_wanted(parts: IndexParts) -> int:
    """The most training rows that FAISS makes use of."""
    wanted = [_ROWS_WANTED_AT_LEAST, *(_POINTS_WANTED * count for count in _centroid_counts(parts))]
    for transform in parts.transforms:
        if hasattr(transform, "max_points_per_d"):
            wanted.append(transform.max_points_per_d * transform.d_in)
        if hasattr(transform, "max_train_points"):
            wanted.append(transform.max_train_points)
    return max(wanted)


def rows_needed(parts: IndexParts) -> int:
    """The fewest training rows with which FAISS trains at all."""
    faiss = import_faiss()
    needed = [1, *_centroid_counts(parts)]
    for transform in parts.transforms:
        if isinstance(transform, (faiss.PCAMatrix, faiss.ITQTransform)):
            needed.append(transform.d_out)
    if isinstance(parts.core, (faiss.IndexResidualQuantizer, faiss.IndexIVFResidualQuantizer)):
        needed.append(parts.core.d)
    return max(needed)


def _require_rows(parts: IndexParts, idx_factory: str, rows: int) -> None:
    needed = rows_needed(parts)
    if rows < needed:
        raise FaissIndexError(
            f"{rows} training descriptors for idx_factory {idx_factory!r}: expected at least {needed}, better "
            f"{_POINTS_RECOMMENDED * needed}; give more, or take fewer cells or smaller codes"
        )


def _centroid_counts(parts: IndexParts) -> list[int]:
    """The sizes of all codebooks that k-means makes."""
    faiss = import_faiss()
    counts = []
    if parts.ivf is not None:
        quantizer = faiss.downcast_index(parts.ivf.quantizer)
        # Some coarse quantisers are products of small codebooks and train alone.
        own = getattr(quantizer, "pq", None)
        if own is not None:
            counts.append(own.ksub)
        elif hasattr(quantizer, "rq"):
            counts += _codebook_sizes(quantizer.rq)
        else:
            counts.append(parts.ivf.nlist)
    counts += [pq.ksub for pq in _product_quantisers(parts.core)]
    if hasattr(parts.core, "rq"):
        counts += _codebook_sizes(parts.core.rq)
    counts += [256 for transform in parts.transforms if isinstance(transform, faiss.OPQMatrix)]
    return counts


def _product_quantisers(core: FaissIndex) -> list[Any]:
    return [getattr(core, name) for name in ("pq", "refine_pq") if hasattr(core, name)]


def _codebook_sizes(additive: Any) -> list[int]:
    return [2 ** additive.nbits.at(i) for i in range(additive.nbits.size())]


def _seed_clusterings(parts: IndexParts, seed: int) -> list[tuple[Any, Any]]:
    """Seed every k-means, and quieten its complaints, which come once per codebook and iteration.

    Returns:
        The OPQ transforms with the quantisers lent to them, which must outlive the training.
    """
    faiss = import_faiss()
    held = []
    settings = [part.cp for part in (parts.ivf, getattr(parts.core, "rq", None)) if part is not None]
    settings += [pq.cp for pq in _product_quantisers(parts.core)]
    for transform in parts.transforms:
        if isinstance(transform, faiss.OPQMatrix):
            pq = faiss.ProductQuantizer(transform.d_out, transform.M, 8)
            transform.pq = pq
            held.append((transform, pq))
            settings.append(pq.cp)
    for clustering in settings:
        clustering.seed = seed
        clustering.min_points_per_centroid = 1
    return held


def _check_transforms(parts: IndexParts, idx_factory: str) -> None:
    faiss = import_faiss()
    for transform in parts.transforms:
        if isinstance(transform, faiss.OPQMatrix) and transform.d_out % transform.M:
            raise FaissIndexError(_division_message(idx_factory, transform.d_out))
        if isinstance(transform, (faiss.PCAMatrix, faiss.ITQTransform)) and transform.d_out > transform.d_in:
            raise FaissIndexError(
                f"idx_factory {idx_factory!r} asks for {transform.d_out} of {transform.d_in} dimensions: take at "
                f"most {transform.d_in}"
            )


def _division_message(idx_factory: str, dim: int) -> str:
    divisors = [str(i) for i in range(1, min(dim, 128) + 1) if dim % i == 0]
    return (
        f"idx_factory {idx_factory!r}: dimension {dim} is not a multiple of the number of sub-quantisers; take "
        f"one of {', '.join(divisors)}, or put OPQ<M>_<D> with a D that divides in front"
    )


def _factory_message(dim: int, idx_factory: str, metric: Metric, error: Exception) -> str:
    text = str(error)
    if "multiple of the number of subquantizers" in text:
        return _division_message(idx_factory, _quantised_dim(dim, idx_factory))
    if "metric == METRIC_L2" in text:
        return f"idx_factory {idx_factory!r} works with metric 'L2' only, not {metric!r}: take metric L2"
    if re.fullmatch(r"(?:.*,)?IVF\d+", idx_factory):
        return f"idx_factory {idx_factory!r} does not say what its cells hold: take {idx_factory + ',Flat'!r}"
    if "parse" in text or "stoi" in text:
        return (
            f"idx_factory {idx_factory!r} cannot be parsed by FAISS: expected its factory syntax, {_EXAMPLES}"
        )
    return (
        f"idx_factory {idx_factory!r} is not possible for dimension {dim}: FAISS says {faiss_reason(error)!r}; "
        f"take another one, {_EXAMPLES}"
    )


def _quantised_dim(dim: int, idx_factory: str) -> int:
    """The dimension that reaches the codes, after the transforms that the string names."""
    for match in re.finditer(r"(?:OPQ\d+_|PCAR?|PCAW|PCAWR|ITQ|RR|Pad)(\d+),", idx_factory):
        dim = int(match.group(1))
    return dim
