"""Pools: futures, admission and map; one file per kind of pool. Read future.py, then executor.py, then the pools."""
