"""Model architectures at any width, their acceleration on a device, and the starter weights."""
