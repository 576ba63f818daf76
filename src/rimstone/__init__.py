"""rimstone: plain, blocking Python functions on processes x threads x coroutines."""
