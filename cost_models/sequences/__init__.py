"""What sequences of different lengths cost in training, on one rank or spread over several."""
