"""One small file a data set or family of data sets: where samples come from."""
