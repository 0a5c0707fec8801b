"""A result as one HTML file that needs no network. Pure: data in, text out."""

from klinecast.report.data import ReportData
from klinecast.report.render import render_report

__all__ = ["ReportData", "render_report"]
