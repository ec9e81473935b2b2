"""Reads a run directory and turns it into figures, charts and a page."""
