"""Errors, files, seeds and the machine: used by every room, and importing none of them."""
