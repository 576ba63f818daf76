"""A worker process, and what travels to it and back: `main.py` is its inside, `process.py` its outside."""
