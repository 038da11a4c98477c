"""Where times come from: one file per source, whose name is what users select it by."""
