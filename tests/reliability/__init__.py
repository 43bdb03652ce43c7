"""Programs that test the project's guarantees: each prints PASS or FAIL for every guarantee it tests."""
