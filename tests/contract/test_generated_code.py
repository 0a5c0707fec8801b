"""The committed code is what the protos generate, and the protos say what they mean."""

import filecmp
import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from klinecast.api.backtest.v1 import backtest_service_pb2
from klinecast.api.data.v1 import data_service_pb2
from klinecast.api.error.v1 import error_reason_pb2
from klinecast.api.results.v1 import results_service_pb2

ROOT = Path(__file__).resolve().parents[2]
SERVICES = [
    file.services_by_name[name]
    for file, name in (
        (data_service_pb2.DESCRIPTOR, "DataService"),
        (backtest_service_pb2.DESCRIPTOR, "BacktestService"),
        (results_service_pb2.DESCRIPTOR, "ResultsService"),
    )
]
METHODS = [method for service in SERVICES for method in service.methods]


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.py*") if "__pycache__" not in path.parts}


def test_committed_code_is_what_the_protos_generate(tmp_path: Path) -> None:
    binaries = Path(sys.executable).parent
    subprocess.run(
        ["make", "-s", "generate", f"BIN={binaries}", f"OUT={tmp_path}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    committed, generated = ROOT / "klinecast" / "api", tmp_path / "klinecast" / "api"
    assert _files(committed) == _files(generated)
    _, different, missing = filecmp.cmpfiles(committed, generated, sorted(_files(committed)), shallow=False)
    assert different + missing == []


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_rpc_has_a_request_and_a_response_of_its_own(method) -> None:
    assert method.input_type.name == f"{method.name}Request"
    assert method.output_type.name == f"{method.name}Response"


def test_every_lone_scalar_with_a_default_other_than_zero_is_optional() -> None:
    """Without explicit presence the default could not be told from a zero that was sent."""
    other_than_zero = re.compile(r"default (true|taker_fee_bps|[\d,.]*[1-9])")
    for path in sorted((ROOT / "protos").rglob("*.proto")):
        comment = ""
        for line in map(str.strip, path.read_text().splitlines()):
            if line.startswith("//"):
                comment += line
                continue
            lone = re.match(r"(double|int32|int64|bool|string) ", line)
            assert not (lone and other_than_zero.search(comment)), f"{path.name}: {line} must be optional"
            comment = ""


def test_time_columns_say_their_unit() -> None:
    for method in METHODS:
        for message in (method.input_type, method.output_type):
            for field in message.fields:
                if field.type in (descriptor_pb2.FieldDescriptorProto.TYPE_SFIXED64,) and "time" in field.name:
                    assert field.name.endswith("_ms"), f"{message.name}.{field.name}"


def test_error_reasons_are_numbered_without_holes() -> None:
    numbers = sorted(error_reason_pb2.ErrorReason.values())
    assert numbers == list(range(len(numbers)))


def test_tenant_is_no_field_of_any_request() -> None:
    def fields(file: FileDescriptor) -> set[str]:
        return {field.name for message in file.message_types_by_name.values() for field in message.fields}

    assert not any("tenant" in name for service in SERVICES for name in fields(service.file))
