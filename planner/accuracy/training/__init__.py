"""Published training runs scored against the training evaluator."""
