"""A service that never comes up."""

import sys

sys.exit("no settings, no service")
