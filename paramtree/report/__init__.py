"""Look at parameters: summary, statistics, what is not finite, a foldable page, pictures, a run's record."""
