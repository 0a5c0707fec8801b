"""python -m services.runtime.auth --subject importer --role ingest [--tenant acme] [--expires 2027-01-01T00:00:00Z]

Makes a token: prints it once on standard error, and the entry for KLINECAST_AUTH__TOKENS_FILE, which holds its hash,
on standard output.
"""

from __future__ import annotations

import argparse
import json
import sys

from pydantic import ValidationError

from services.runtime.auth.credential import Role
from services.runtime.auth.static_tokens import StaticToken, digest, new_token
from services.runtime.tenancy import DEFAULT_TENANT


def main() -> int:
    """Make one."""
    parser = argparse.ArgumentParser(
        prog="python -m services.runtime.auth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--subject", required=True, help="who gets it, for the log")
    parser.add_argument("--role", action="append", required=True, choices=list(Role), help="repeatable")
    parser.add_argument("--tenant", default=DEFAULT_TENANT)
    parser.add_argument("--expires", help="a time with its offset; default: when its entry is removed")
    asked, token = parser.parse_args(), new_token()
    try:
        entry = StaticToken(
            sha256=digest(token), subject=asked.subject, tenant=asked.tenant, roles=asked.role, expires=asked.expires
        )
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False, include_input=False)
        parser.error(f"--{first['loc'][0]}: {first['msg']}")
    print(json.dumps(entry.model_dump(mode="json", exclude_none=True)))
    print(token, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
