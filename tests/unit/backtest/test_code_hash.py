"""The hash of a strategy's code moves with whatever its numbers may come from, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.backtest import code_hash

ROOT = Path(__file__).resolve().parents[3]
STRATEGY = """
import json
from pathlib import Path
from loose import FEW
from plugged.helper import level
from plugged.settings import LEVEL
from plugged_settings import MOST

class Mine:
    threshold = level()

    def decide(self):
        from plugged.late import decide
        return decide()
"""
LOOK = """
import sys, pathlib
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import importlib
from services.backtest.code_hash import Code
module = importlib.import_module(sys.argv[3])
code = Code(module.Mine)
print(code.now())
for line in sys.stdin:
    print(code.now())
"""


@pytest.fixture
def plug_in(tmp_path: Path) -> Path:
    """Return the folder of a distribution `plugged`, and of what it uses: a distribution `base` and a loose module."""
    package = tmp_path / "plugged"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "strategy.py").write_text(STRATEGY)
    (package / "helper.py").write_text(
        "from plugged import deeper\nimport base\n\ndef level():\n    return deeper.LEVEL\n"
    )
    (package / "deeper.py").write_text("LEVEL = 1\n")
    (package / "settings.py").write_text("LEVEL = 1\n")
    (package / "late.py").write_text("import base\n\ndef decide():\n    return 1\n")
    (package / "params.json").write_text('{"fast": 10}')
    (tmp_path / "plugged_settings.py").write_text("MOST = 1\n")
    (tmp_path / "loose.py").write_text("FEW = 1\n")
    (tmp_path / "base.py").write_text("")
    write_distribution(tmp_path, "plugged", "1.0", "plugged", "plugged_settings")
    write_distribution(tmp_path, "base", "1.0", "base")
    return tmp_path


def write_distribution(folder: Path, name: str, version: str, *modules: str) -> None:
    info = folder / f"{name}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "top_level.txt").write_text("\n".join(modules))


def look(folder: Path, module: str = "plugged.strategy", change: Callable[[], object] | None = None) -> list[str]:
    """Return the hash as a process of its own sees it, and once more after a change made while it runs."""
    command = [sys.executable, "-B", "-c", LOOK, str(ROOT), str(folder), module]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        found = [process.stdout.readline().strip()]
        if change is not None:
            change()
            print("again", file=process.stdin, flush=True)
            found.append(process.stdout.readline().strip())
        process.stdin.close()
        assert process.wait(30) == 0
    return found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("plugged/strategy.py", STRATEGY + "\n# changed\n"),
        ("plugged/helper.py", "def level():\n    return 2\n"),
        ("plugged/deeper.py", "LEVEL = 3\n"),
        ("plugged/__init__.py", "SOMETHING = 1\n"),
        ("plugged/settings.py", "LEVEL = 2\n"),
        ("plugged/late.py", "def decide():\n    return 2\n"),
        ("plugged_settings.py", "MOST = 2\n"),
        ("loose.py", "FEW = 2\n"),
        ("loose.json", "{}"),
        ("plugged/params.json", '{"fast": 11}'),
        ("plugged/more/table.csv", "1,2\n"),
    ],
)
def test_a_change_of_what_a_strategy_uses_moves_it(plug_in: Path, file: str, text: str) -> None:
    before = look(plug_in)
    (plug_in / file).parent.mkdir(exist_ok=True)
    (plug_in / file).write_text(text)
    assert look(plug_in) != before


def test_the_version_of_a_distribution_it_uses_moves_it(plug_in: Path) -> None:
    before = look(plug_in)
    write_distribution(plug_in, "base", "1.1", "base")
    assert look(plug_in) != before


@pytest.mark.parametrize("file", ["elsewhere.json", "plugged/.hidden", "plugged/__pycache__/x.pyc", "base.py"])
def test_nothing_else_moves_it(plug_in: Path, file: str) -> None:
    before = look(plug_in)
    (plug_in / file).parent.mkdir(exist_ok=True)
    (plug_in / file).write_text("# other\n")
    assert look(plug_in) == before


def test_a_parameter_file_is_looked_at_while_the_process_runs(plug_in: Path) -> None:
    first, second = look(plug_in, change=lambda: (plug_in / "plugged/params.json").write_text('{"fast": 12}'))
    assert first != second


def test_what_a_module_may_have_read_when_it_was_imported_stays_a_difference(plug_in: Path) -> None:
    params = plug_in / "plugged/params.json"
    _, changed_while_it_runs = look(plug_in, change=lambda: params.write_text("{}"))
    assert look(plug_in) != [changed_while_it_runs]


def test_a_file_that_is_as_it_was_is_no_difference(plug_in: Path) -> None:
    params = plug_in / "plugged/params.json"
    first, second = look(plug_in, change=lambda: params.write_text(params.read_text()))
    assert first == second


def test_source_is_what_was_loaded(plug_in: Path) -> None:
    first, second = look(plug_in, change=lambda: (plug_in / "plugged/helper.py").write_text("changed = True\n"))
    assert first == second


def test_the_place_does_not_matter(plug_in: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "deeper"
    plug_in.rename(elsewhere)
    there = look(elsewhere)
    elsewhere.rename(plug_in)
    assert look(plug_in) == there


def test_a_loose_module_has_the_files_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "lone.py").write_text("class Mine:\n    pass\n")
    (tmp_path / "lone.json").write_text("{}")
    before = look(tmp_path, "lone")
    (tmp_path / "other.json").write_text("{}")
    assert look(tmp_path, "lone") == before
    (tmp_path / "lone.json").write_text('{"a": 1}')
    assert look(tmp_path, "lone") != before


def test_too_much_beside_it_is_no_hash(plug_in: Path) -> None:
    with (plug_in / "plugged/huge.bin").open("wb") as file:
        file.truncate(code_hash.MAX_BYTES + 1)
    assert look(plug_in) == ["None"]
