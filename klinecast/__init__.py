"""Klinecast for its callers: types, errors, the SDK and the command. Holds no server code and no SQL."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("klinecast")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
