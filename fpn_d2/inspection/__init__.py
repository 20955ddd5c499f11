"""A look at a data set before training, and at the mistakes of a detector after it.

Its modules are imported one by one: a check of files draws nothing.
"""
