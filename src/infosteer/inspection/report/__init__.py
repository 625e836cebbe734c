"""A run as one self-contained HTML page."""

from infosteer.inspection.report.build import write_report as write_report
