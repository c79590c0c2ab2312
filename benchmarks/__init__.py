"""Every figure in README and docs has its script here."""
