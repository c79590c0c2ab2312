"""Tests of keras_gradopt."""
