"""Time of model calls in a graph, and what the ways of connecting them gain."""
