"""Hardware profiles."""
