"""Rate and quality of a model on images, and Bjontegaard deltas between curves."""
