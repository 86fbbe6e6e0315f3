"""The same job on any runner and on any store: `make conformance`."""
