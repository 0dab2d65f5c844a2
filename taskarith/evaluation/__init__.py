"""Model + data -> scores: teacher-forced losses, greedy continuations, and the numbers made from their records."""
