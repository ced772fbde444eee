"""The training criterion and what regularises the latents."""
