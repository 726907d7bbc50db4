"""Seeds that depend on what is treated, never on when, where or beside what it is treated."""

import hashlib


def derive_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed from the run's seed and the parts that name the thing treated.

    The same arguments give the same number on every machine, process and Python version, so an image's
    random numbers do not depend on its batch, worker or rank.

    Args:
        seed: the run's seed.
        parts: what tells this use from every other, for example an image's id and the name of an edit.
    """
    text = "\x1f".join([str(seed), *map(str, parts)])
    # names of files may hold what is no valid Unicode
    data = text.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1
