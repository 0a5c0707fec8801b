"""Migrations run while the version before them serves: what came after the last release must not hurt it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import postgres
from tests.contract.migrations import find_problems, record

RELEASED = json.loads((Path(__file__).parent / "released" / "migrations.json").read_text())
ENV = "from services.runtime.migrations import run_env\n\nrun_env()\n"
LOCKS = "require-concurrent-index-creation"
NAME = re.compile(r"(pre|post)_(\d{4})_[a-z_]+")


@pytest.mark.parametrize("service", postgres.SERVICES)
def test_migrations_since_the_last_release_hurt_nobody(service: str, empty_database_url: str) -> None:
    location = postgres.find_migrations(service)
    assert location is not None
    migrations = record(empty_database_url, service, location)
    numbers = [match[2] for name in migrations if (match := NAME.fullmatch(name))]
    assert numbers == [f"{number:04}" for number in range(1, len(migrations) + 1)]
    assert RELEASED[service] in numbers
    since = {name: find_problems(name, made) for name, made in migrations.items() if _is_new(service, name)}
    assert {name: found for name, found in since.items() if found} == {}


def _is_new(service: str, name: str) -> bool:
    match = NAME.fullmatch(name)
    return match is not None and match[2] > RELEASED[service]


@pytest.mark.parametrize(
    ("name", "statement", "problem"),
    [
        ("pre_0002_planted", "DROP TABLE planted.words", "ban-drop-table"),
        ("pre_0002_planted", "ALTER TABLE planted.words DROP COLUMN word", "ban-drop-column"),
        ("pre_0002_planted", "ALTER TABLE planted.words RENAME COLUMN word TO name", "renaming-column"),
        ("pre_0002_planted", "ALTER TABLE planted.words RENAME TO names", "renaming-table"),
        ("pre_0002_planted", "ALTER TABLE planted.words ALTER COLUMN word SET NOT NULL", "adding-not-nullable-field"),
        ("pre_0002_planted", "ALTER TABLE planted.words ALTER COLUMN size TYPE bigint", "changing-column-type"),
        ("pre_0002_planted", "ALTER TABLE planted.words ADD COLUMN more int NOT NULL", "adding-required-field"),
        ("pre_0002_planted", "CREATE INDEX planted_words ON planted.words (word)", LOCKS),
        (
            "post_0002_planted",
            "CREATE INDEX planted_words ON planted.words (word)",
            LOCKS,
        ),
        ("pre_0002_planted", "ALTER TABLE planted.words ADD COLUMN more int", None),
        ("pre_0002_planted", "ALTER TABLE planted.words ADD COLUMN more int NOT NULL DEFAULT 0", None),
        ("pre_0002_planted", "CREATE TABLE planted.others (word text NOT NULL)", None),
        ("post_0002_planted", "ALTER TABLE planted.words DROP COLUMN word", None),
    ],
)
def test_planted_faults_are_found(
    empty_database_url: str, tmp_path: Path, name: str, statement: str, problem: str | None
) -> None:
    plant(tmp_path, "pre_0001_words", None, "op.execute('CREATE TABLE planted.words (word text, size int)')")
    plant(tmp_path, name, "0001", f"op.execute({statement!r})")
    made = record(empty_database_url, "planted", tmp_path)[name]
    assert made == [statement]
    assert find_problems(name, made) == ([] if problem is None else [problem])


def test_an_index_is_made_beside_running_writes(empty_database_url: str, tmp_path: Path) -> None:
    plant(tmp_path, "pre_0001_words", None, "op.execute('CREATE TABLE planted.words (word text)')")
    concurrently = """with op.get_context().autocommit_block():
        op.create_index("words_word", "words", ["word"], schema="planted", postgresql_concurrently=True)"""
    plant(tmp_path, "pre_0002_index", "0001", concurrently)
    made = record(empty_database_url, "planted", tmp_path)["pre_0002_index"]
    assert "CONCURRENTLY" in made[0]
    assert find_problems("pre_0002_index", made) == []


def plant(home: Path, name: str, down: str | None, body: str) -> None:
    """Write a migration beside an env.py of ours."""
    (home / "env.py").write_text(ENV)
    (home / "versions").mkdir(exist_ok=True)
    revision = name.split("_")[1]
    text = (
        f"from alembic import op\n\nrevision = {revision!r}\ndown_revision = {down!r}\n\n\ndef upgrade():\n    {body}\n"
    )
    (home / "versions" / f"{name}.py").write_text(text)
