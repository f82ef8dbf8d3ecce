"""What the proxy costs, and a guard that it does not cost more. See README.md; `make bench` runs all of it."""
