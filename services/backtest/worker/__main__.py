"""python -m services.backtest.worker: a worker process, started by an executor with its end of a socket pair."""

from __future__ import annotations

import argparse
import sys


def main() -> None:
    """Run the worker until its parent ends or tells it to stop."""
    parser = argparse.ArgumentParser(prog="services.backtest.worker")
    parser.add_argument("--child-fd", type=int, required=True, help="inherited socket to the executor")
    from services.backtest.worker.process import run_child

    sys.exit(run_child(parser.parse_args().child_fd))


if __name__ == "__main__":
    main()
