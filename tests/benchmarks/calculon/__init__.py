"""Calculon's published cost formulas and option space, written anew: a second judge of training plans."""
