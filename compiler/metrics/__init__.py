"""What is proven of a model, task by task: a figure, its bound, and a verdict."""
