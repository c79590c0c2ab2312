"""Tests, by the package that they test; the files right here look at the whole project."""
