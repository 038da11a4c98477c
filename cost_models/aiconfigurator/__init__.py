"""Times from AIConfigurator's measured tables, through the optional package ``aiconfigurator-core``."""
