"""Speed and memory as ratios, and what the quickstart reaches: `make bench`, or `python -m bench NAME` for one file."""
