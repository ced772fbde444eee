"""One model trained at one rate: the trainer, its optimizers, checkpoints' weights, and a trial's epochs."""
