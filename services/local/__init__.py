"""The laptop deployment: a real Postgres and the three services under one supervisor.

Knows the services only as commands.
"""
