"""The results service: keeps results by policy, gone by policy."""
