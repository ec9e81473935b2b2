"""Scenarios, the runner behind ``make bench``, calibration and verdicts."""
