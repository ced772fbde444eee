"""YAML presets; search.config reads and checks them."""
