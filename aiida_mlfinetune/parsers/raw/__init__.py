"""Pure functions from the text of output files to arrays and dictionaries."""
