"""The benchmarks: `./dev bench`, or `python -m bench` in the checkout. Read README.md, then registry.py."""
