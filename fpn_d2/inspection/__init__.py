"""A look at a data set before training, and at the mistakes of a detector after it.

It imports none of its modules, so a check of files loads no code for drawing.
"""
