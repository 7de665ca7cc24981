"""What a search is: ports, the use case, and the encoders, indexes and caches behind them."""
