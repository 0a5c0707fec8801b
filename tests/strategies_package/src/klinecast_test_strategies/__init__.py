"""Strategies that misbehave on purpose, one file each."""
