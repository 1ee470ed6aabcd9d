"""What int8 cost: answers compared, budgets held, the graph that really ran looked at."""
