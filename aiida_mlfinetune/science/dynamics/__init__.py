"""What defines a run of molecular dynamics."""
