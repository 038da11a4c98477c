"""The checker's own view of a served model: sizes, step times and loads in plain scalar arithmetic."""
