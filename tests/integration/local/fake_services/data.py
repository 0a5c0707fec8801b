"""A stand-in; see serve.py."""

from tests.integration.local.fake_services.serve import serve

serve()
