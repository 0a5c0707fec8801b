"""python -m tests.k8s.rules: write the operator's copy of the alert rules."""

from __future__ import annotations

from tests.k8s.monitoring import OPERATOR_RULES, operator_rule

if __name__ == "__main__":
    OPERATOR_RULES.write_text(operator_rule())
