"""Results as one HTML file that needs no network. Pure: data in, text out."""

from klinecast.report.build import EXIT_REASONS, compared_result, report_data, with_profit
from klinecast.report.compare import render_comparison
from klinecast.report.data import ComparedResult, ComparisonData, Honesty, ReportData
from klinecast.report.render import render_report

__all__ = [
    "EXIT_REASONS",
    "ComparedResult",
    "ComparisonData",
    "Honesty",
    "ReportData",
    "compared_result",
    "render_comparison",
    "render_report",
    "report_data",
    "with_profit",
]
