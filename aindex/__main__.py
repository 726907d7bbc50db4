"""`python -m aindex` is the same program as `aindex`."""

from aindex.cli import main

if __name__ == "__main__":
    main()
