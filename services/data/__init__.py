"""The data service: stores klines and streams them back, filtered by time on the server."""
