"""Active image indexing: release images whose edited copies an approximate index still finds."""

__version__ = "0.1.0"
