"""Runs the migrations of the schema `data`."""

from services.runtime.migrations import run_env

run_env()
