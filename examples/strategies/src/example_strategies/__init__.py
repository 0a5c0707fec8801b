"""Example strategies for klinecast."""
