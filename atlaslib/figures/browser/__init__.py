"""Demonstrations that run in the reader's browser, without kernel, server or network."""
