"""Errors meant for people: each message names the value, what was expected and the way out."""


class AindexError(Exception):
    """Base of every error that a user can cause and mend; the command line prints it as one line.

    Attributes:
        is_told_elsewhere: whether another process of the run prints it.
    """

    is_told_elsewhere = False


class DataError(AindexError):
    """A folder, file list, ground truth or picture is not what was expected."""


class ImageReadError(DataError):
    """One picture cannot be decoded; batch work records it and goes on."""


class DescriptorError(AindexError):
    """A descriptor file or matrix has a wrong form, dimension or value."""


class ExtractorError(AindexError):
    """An extractor is unknown, cannot be fetched or loaded, or does not fit the index."""


class FaissIndexError(AindexError):
    """A factory string, a stored index or a search request is not possible."""


class ConfigError(AindexError):
    """Options that contradict each other or the stored state."""


class OutputError(AindexError):
    """A result cannot be written, or would overwrite another one."""


class EditError(AindexError):
    """An edit of a picture failed."""
