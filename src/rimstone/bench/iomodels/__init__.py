"""`rimstone bench io-models`: one plain handler under every IO model, beside others. Read servers.py, then plan.py."""
