"""Puts the commands together; exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from klinecast.cli import _backtest, _check, _data, _import, _results, _retention
from klinecast.cli._session import Session, print_error
from klinecast.client import Security
from klinecast.errors import KlinecastError

app = typer.Typer(
    name="klinecast",
    help="Backtest trading strategies on klines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_import.register(app)
_data.register(app)
_check.register(app)
_retention.register(_results.app)
app.add_typer(_backtest.app, name="backtest", help="Run backtests and follow them.")
app.add_typer(_results.app, name="results", help="Read stored results.")

_DataTarget = Annotated[str, typer.Option("--data", envvar="KLINECAST_DATA_TARGET", help="data service, host:port")]
_BacktestTarget = Annotated[
    str, typer.Option("--backtest", envvar="KLINECAST_BACKTEST_TARGET", help="backtest service, host:port")
]
_ResultsTarget = Annotated[
    str, typer.Option("--results", envvar="KLINECAST_RESULTS_TARGET", help="results service, host:port")
]
_CaFile = Annotated[
    str | None,
    typer.Option(
        envvar="KLINECAST_CLIENT__CA_FILE", help="authorities of the services' certificates; 'public': the web's"
    ),
]
_CertificateFile = Annotated[
    str | None, typer.Option(envvar="KLINECAST_CLIENT__CERTIFICATE_FILE", help="certificate of your own")
]
_KeyFile = Annotated[str | None, typer.Option(envvar="KLINECAST_CLIENT__KEY_FILE", help="its private key")]
_TokenFile = Annotated[
    str | None, typer.Option(envvar="KLINECAST_CLIENT__TOKEN_FILE", help="token that says who calls")
]
_Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure-token-without-tls",
        envvar="KLINECAST_CLIENT__INSECURE_TOKEN_WITHOUT_TLS",
        help="send the token in plaintext",
    ),
]


@app.callback()
def _connect(
    context: typer.Context,
    data: _DataTarget = "localhost:50051",
    backtest: _BacktestTarget = "localhost:50052",
    results: _ResultsTarget = "localhost:50053",
    ca_file: _CaFile = None,
    certificate_file: _CertificateFile = None,
    key_file: _KeyFile = None,
    token_file: _TokenFile = None,
    insecure_token_without_tls: _Insecure = False,
) -> None:
    security = Security(ca_file, certificate_file, key_file, token_file, insecure_token_without_tls)
    context.obj = Session(data, backtest, results, security)


def main() -> None:
    """Run the command and exit with its code."""
    try:
        sys.exit(app(standalone_mode=True))
    except KlinecastError as error:
        print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
