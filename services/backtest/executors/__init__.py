"""What delivers a backtest to a worker."""
