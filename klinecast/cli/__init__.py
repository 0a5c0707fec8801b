"""The `klinecast` command: what people type. Speaks to the services through klinecast.client only."""

from klinecast.cli._app import main

__all__ = ["main"]
