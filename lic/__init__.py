"""Learned image compression: models, decorrelated training, evaluation, BD-rate.

Needs only torch and compressai; does not depend on the search package.
"""
