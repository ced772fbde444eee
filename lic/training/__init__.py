"""Training of one model at one quality: trainer, optimizers, weights files, and the epochs of a trial."""
