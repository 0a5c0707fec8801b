"""Runs the migrations of the schema `results`."""

from services.runtime.migrations import run_env

run_env()
