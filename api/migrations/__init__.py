"""Versions of the ledger's tables, applied by `Store.migrate`."""
