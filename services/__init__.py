"""The deployables; this package never leaves the repository."""
