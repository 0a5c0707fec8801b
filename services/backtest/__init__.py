"""The backtest service: takes configs, has workers run them, tells how they are getting on."""
