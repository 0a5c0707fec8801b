"""Indicators: computed by TA-Lib over a series' klines, or stored and read as they stood at each kline."""
