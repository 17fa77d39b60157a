"""Put a model to use: classify, embed."""
