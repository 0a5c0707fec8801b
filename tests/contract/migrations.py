"""What migrations may do while the version before them serves: Squawk knows what breaks or blocks its statements."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from services.runtime.database import sqlalchemy_url
from services.runtime.migrations import config_of

SQUAWK = Path(sys.executable).parent / "squawk"
LEFT_OUT = ("require-lock-timeout", "require-statement-timeout")
"""Set for all migrations by services.runtime.migrations, or not wanted; the prefer-... rules are matters of taste."""
BLOCKING = ("constraint-missing-not-valid", "require-concurrent-index-creation", "require-concurrent-index-deletion")
"""What a post_ migration may not do either: it locks a table for as long as it is long."""


def record(url: str, schema: str, location: Path) -> Mapping[str, Sequence[str]]:
    """Run the migrations of a schema one by one; return the statements of each, by the name of its file."""
    statements: dict[str, list[str]] = defaultdict(list)
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        connection.commit()
        config = config_of(connection, schema, location)
        for script in reversed(list(ScriptDirectory.from_config(config).walk_revisions())):

            def note(_: Any, __: Any, statement: str, *___: Any, name: str = Path(script.path).stem) -> None:
                if statement.split(maxsplit=1)[0] != "SELECT" and "alembic_version" not in statement:
                    statements[name].append(statement)

            sa.event.listen(connection, "before_cursor_execute", note)
            command.upgrade(config, script.revision)
            sa.event.remove(connection, "before_cursor_execute", note)
            connection.commit()
    engine.dispose()
    return statements


def find_problems(name: str, statements: Sequence[str]) -> list[str]:
    """Return what a migration would do to the version that serves meanwhile, by rule of Squawk."""
    done = subprocess.run(
        [SQUAWK, "--reporter=json", "--pg-version=16"],
        input=";\n".join(statements) + ";",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = [one["rule_name"] for one in json.loads(done.stdout)]
    serious = [rule for rule in found if not rule.startswith("prefer-") and rule not in LEFT_OUT]
    return serious if name.startswith("pre_") else [rule for rule in serious if rule in BLOCKING]
