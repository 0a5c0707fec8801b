"""Reads files of klines into columns, batch by batch; knows file formats and numpy, neither the wire nor a service."""

from klinecast.importing.errors import ImportFormatError
from klinecast.importing.finding import FoundFiles, find_files, verify_checksum
from klinecast.importing.reading import FORMATS, MAX_BATCH, ImportBatch, read_klines

__all__ = [
    "FORMATS",
    "MAX_BATCH",
    "FoundFiles",
    "ImportBatch",
    "ImportFormatError",
    "find_files",
    "read_klines",
    "verify_checksum",
]
