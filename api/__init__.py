"""Measured advice over HTTP, with a page. Nothing in this process imports Keras."""
