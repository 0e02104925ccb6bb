"""What a model is: its passport and card, its errors, what it has forgotten, whether it can be run."""
