"""python -m services.results: run the results service."""

from services.results.app import MIGRATIONS, build_app
from services.results.settings import ResultsSettings
from services.runtime.server import run

if __name__ == "__main__":
    run("results", ResultsSettings, build_app, migrations=MIGRATIONS)
