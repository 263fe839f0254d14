"""Environments of packages whose pins exclude ours: made, listed, and run in."""
