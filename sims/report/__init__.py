"""From a finished run to report.json, report.html and plots."""
