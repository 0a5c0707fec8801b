"""klinecast results policy, preview and pin, on a deployment of their own: a preview names but a hundred results."""

import json

import pytest

from tests.results import make_equity, save
from tests.suite import Suite


@pytest.fixture
def suite(own_suite: Suite) -> Suite:
    return own_suite


def test_a_policy_is_shown_tried_set_and_undone(klinecast, suite: Suite) -> None:
    with suite.client() as client:
        one, other = (save(client, equity=make_equity(300)).result_id for _ in range(2))
    assert klinecast("results", "pin", one).returncode == 0
    preview = json.loads(klinecast("results", "preview", "--max-results", "1", "--json").stdout)
    assert other in preview["result_ids"]
    assert one not in preview["result_ids"]
    assert preview["kept"]["pinned_results"] >= 1
    assert "would be kept" in klinecast("results", "preview", "--max-results", "1").stdout
    try:
        done = klinecast("results", "policy", "--default-ttl", "12h", "--max-ttl", "90d")
        assert "12h" in done.stdout
        assert "90d" in done.stdout
        assert json.loads(klinecast("results", "policy", "--json").stdout)["policy"]["default_ttl_s"] == 43_200
    finally:
        done = klinecast("results", "policy", "--reset")
    assert "30d" in done.stdout
    assert klinecast("results", "unpin", one).returncode == 0
    done = klinecast("results", "policy", "--default-ttl", "soon")
    assert done.returncode == 2
    assert "--default-ttl" in done.stderr
