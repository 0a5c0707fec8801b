"""python -m services.backtest: run the backtest service."""

from services.backtest.app import MIGRATIONS, build_app
from services.backtest.settings import BacktestSettings
from services.runtime.server import run

if __name__ == "__main__":
    run("backtest", BacktestSettings, build_app, migrations=MIGRATIONS)
