"""Makes report.json, report.html and plots from a finished run."""
