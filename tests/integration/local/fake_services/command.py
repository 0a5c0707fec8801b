"""Stands in for the klinecast command: says what it was asked and told, fails or hangs when its arguments say so."""

import os
import sys
import time

print("command", sys.argv[1], os.environ["KLINECAST_BACKTEST_TARGET"], flush=True)
if sys.argv[1] == os.environ.get("FAKE_HANG"):
    print("hanging", flush=True)
    time.sleep(600)
sys.exit(3 if sys.argv[1] == os.environ.get("FAKE_FAIL") else 0)
