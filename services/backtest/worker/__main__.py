"""python -m services.backtest.worker: takes backtests from the broker and runs them in processes of its own.

With --child-fd it is one of those processes, started by its parent with its end of a socket pair.
"""

from __future__ import annotations

import argparse
import sys


def main() -> None:
    """Run until told to stop; a child, until its parent ends or tells it to stop."""
    parser = argparse.ArgumentParser(prog="services.backtest.worker", description=__doc__)
    parser.add_argument("--show-settings", action="store_true", help="print the settings, secrets masked, and exit")
    parser.add_argument("--child-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker-id", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child_fd is None:
        from services.backtest.executors.consumer import run

        sys.exit(run(shows_settings=arguments.show_settings))
    from services.backtest.worker.process import run_child

    sys.exit(run_child(arguments.child_fd, arguments.worker_id))


if __name__ == "__main__":
    main()
