"""python -m klinecast.cli: the command without its entry point."""

from klinecast.cli import main

main()
