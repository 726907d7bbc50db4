"""Active image indexing: release images whose edited copies an approximate index still finds.

The functions for pictures of one's own, the index, and the parts of the Lightning pipeline are found here by name; each
is imported when it is used::

    from aindex import activate, build_index, search

    build_index("mine", like="shipped", references="holiday")
    released = activate("holiday", "released", index="mine", min_psnr=42)
    found = search("mine", "copies")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aindex.activation.datamodule import ImageData as ImageData
    from aindex.activation.module import ActivationModule as ActivationModule
    from aindex.callbacks.build_index import BuildIndex as BuildIndex
    from aindex.callbacks.evaluate import Evaluate as Evaluate
    from aindex.callbacks.report import Report as Report
    from aindex.callbacks.run_folder import RunFolder as RunFolder
    from aindex.callbacks.write_images import WriteImages as WriteImages
    from aindex.collection.adopting import adopt_index as adopt_index
    from aindex.collection.building import add_to_index as add_to_index
    from aindex.collection.building import build_index as build_index
    from aindex.collection.equipment import describing as describing
    from aindex.collection.exporting import check_against as check_against
    from aindex.collection.exporting import export_index as export_index
    from aindex.collection.exporting import lance_arguments as lance_arguments
    from aindex.descriptors.registry import load_extractor as load_extractor
    from aindex.errors import AindexError as AindexError
    from aindex.index.reference_index import ReferenceIndex as ReferenceIndex
    from aindex.matching.calibrating import calibrate as calibrate
    from aindex.matching.page import write_page as write_page
    from aindex.matching.searching import search as search
    from aindex.release.activating import activate as activate

__version__ = "0.1.0"

# Imported at the first use: torch takes seconds, and the version must not wait for it.
_HOMES = {
    "ActivationModule": "aindex.activation.module",
    "AindexError": "aindex.errors",
    "BuildIndex": "aindex.callbacks.build_index",
    "Evaluate": "aindex.callbacks.evaluate",
    "ImageData": "aindex.activation.datamodule",
    "ReferenceIndex": "aindex.index.reference_index",
    "Report": "aindex.callbacks.report",
    "RunFolder": "aindex.callbacks.run_folder",
    "WriteImages": "aindex.callbacks.write_images",
    "activate": "aindex.release.activating",
    "add_to_index": "aindex.collection.building",
    "adopt_index": "aindex.collection.adopting",
    "build_index": "aindex.collection.building",
    "calibrate": "aindex.matching.calibrating",
    "check_against": "aindex.collection.exporting",
    "describing": "aindex.collection.equipment",
    "export_index": "aindex.collection.exporting",
    "lance_arguments": "aindex.collection.exporting",
    "load_extractor": "aindex.descriptors.registry",
    "search": "aindex.matching.searching",
    "write_page": "aindex.matching.page",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(
            f"module 'aindex' has no attribute {name!r}: expected one of {', '.join(_HOMES)}"
        )
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
