"""Contract suites and stand-ins for tests, for those who add a pool or an IO model; rimstone itself imports none."""
