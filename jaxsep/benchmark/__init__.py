"""Speed and memory, side by side with a peer: `python -m jaxsep.benchmark --help`."""
