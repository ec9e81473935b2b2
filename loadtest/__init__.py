"""Drives streaming sockets from Locust users and writes down what it saw."""
