"""Learned image compression: models, decorrelated training, evaluation, BD-rate.

Runs with torch and compressai alone; knows nothing of the search above it.
"""
