"""Images: folders and generators, packed caches, random crops, the Kodak set."""
