"""One file a kind of evaluation."""
