"""What runs come to: averages at the reference level, how near they are, what they are made of, which crystal wins."""
