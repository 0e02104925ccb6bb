"""The sections of a report, one module each: nodes in, plain parts of a page out."""
