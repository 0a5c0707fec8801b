"""How long a phase still takes."""

from services.backtest.jobs import Phase
from services.backtest.run import Pace, Progress


def test_what_is_left_is_told_from_the_rate_of_the_phase() -> None:
    pace = Pace()
    assert pace.left_s(Progress(Phase.SIMULATE, 100, 400), 5.0) is None
    assert pace.left_s(Progress(Phase.SIMULATE, 200, 400), 7.0) == 4.0
    assert pace.left_s(Progress(Phase.SIMULATE, 400, 400), 8.0) == 0.0


def test_nothing_is_told_of_a_phase_that_has_just_begun() -> None:
    pace = Pace()
    pace.left_s(Progress(Phase.SIGNALS, 0, 400), 0.0)
    assert pace.left_s(Progress(Phase.SIGNALS, 0, 400), 9.0) is None
    assert pace.left_s(Progress(Phase.SIMULATE, 200, 400), 10.0) is None
