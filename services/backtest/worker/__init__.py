"""The process that does the work: claims a backtest, runs it, writes how it ended."""
