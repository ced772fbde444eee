"""Images as real bits: streams, the file around them, and checks against the estimate."""
