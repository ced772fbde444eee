"""Actual image coding: bitstreams, the file format, and verification against the entropy estimate."""
