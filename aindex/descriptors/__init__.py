"""Pixels to descriptors: preprocessing, extractors, extraction, descriptor files."""
