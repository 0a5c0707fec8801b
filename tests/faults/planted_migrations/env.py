"""The migrations of the tests' own service."""

from services.runtime.migrations import run_env

run_env()
