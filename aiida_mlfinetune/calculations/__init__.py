"""One CalcJob a file; thin calcfunctions under ``functions``."""
