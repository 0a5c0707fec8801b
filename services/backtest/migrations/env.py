"""Runs the migrations of the schema `backtest`."""

from services.runtime.migrations import run_env

run_env()
