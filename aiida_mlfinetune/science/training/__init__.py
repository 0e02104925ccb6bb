"""What a training is asked for, what of that is refused, what it did, and what more labels would bring."""
