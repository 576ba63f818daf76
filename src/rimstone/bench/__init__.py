"""The benchmarks: `rimstone bench`, or `./dev bench` in a checkout. Read README.md, then registry.py."""
