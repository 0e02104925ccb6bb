"""Stand-alone programs that are copied into job folders: they never import this package."""
