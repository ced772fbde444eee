"""Architectures at any width, what makes them fast on a device, and the weights small searches start from."""
