"""python -m services.data: run the data service."""

from services.data.app import MIGRATIONS, build_app
from services.data.settings import DataSettings
from services.runtime.server import run

if __name__ == "__main__":
    run("data", DataSettings, build_app, migrations=MIGRATIONS)
