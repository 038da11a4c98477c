"""What each kind of problem knows about explaining its plans: one file per kind exposes ``EXPLAINER``."""
