"""The training criterion and the regularization of the latents."""
