"""What a training plan must hold, worked out operator by operator, apart from the search."""
