"""Scenarios, data and reports: whole federations on one machine."""
