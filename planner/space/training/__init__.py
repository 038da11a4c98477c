"""The training part of the search space: layers under a strategy become work and bytes."""
