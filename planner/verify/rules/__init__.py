"""Rules of the checker, one file each; the name of a file is the name of the rule."""
