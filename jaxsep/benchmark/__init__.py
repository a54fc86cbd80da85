"""Speed and memory, side by side with a peer where one is installed: `python -m jaxsep.benchmark --help`."""
