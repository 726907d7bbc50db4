"""`aindex activate`: release pictures of one's own."""

from aindex.commands.functions import FunctionCommand, Needs
from aindex.release.activating import BATCH_SIZE, activate, own_index_folder
from aindex.release.manifest import Release


def _tell(result: Release, index: str | None) -> None:
    if result.dry_run:
        print(result.table.to_string(index=False, na_rep="", max_rows=40))
    print(result.summary())
    if not result.dry_run:
        print(f"measures of each picture: {result.folder / 'manifest.csv'}")
    if not result.dry_run and index is None:
        own = own_index_folder(result.folder)
        print(f"the originals are in an index of their own: aindex search COPIES --index {own}")


main = FunctionCommand(
    name="activate",
    function=activate,
    tell=_tell,
    example="--images holiday --out released --index mine --add true --min_psnr 40",
    defaults={"batch_size": BATCH_SIZE},
    needs={
        "rows": Needs("add", (True,)),
        "jpeg_quality": Needs("format", ("jpeg",)),
        "compress_level": Needs("format", ("png",)),
    },
)
