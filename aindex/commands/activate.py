"""`aindex activate`: release pictures of one's own."""

from aindex.collection.activating import BATCH_SIZE, activate
from aindex.collection.manifest import Release
from aindex.commands.functions import FunctionCommand, Needs


def _tell(result: Release) -> None:
    if result.dry_run:
        print(result.table.to_string(index=False, na_rep="", max_rows=40))
    print(result.summary())
    if not result.dry_run:
        print(f"measures of each picture: {result.folder / 'manifest.csv'}")


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
