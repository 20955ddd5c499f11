"""The one kind of error that a user can cause."""


class UserError(ValueError):
    """A setting, a file or a data set that cannot work.

    Its message is one sentence (or two) that names the key, file or image at fault and the
    remedy. ``train_net.py`` and every tool print it without a traceback and exit with code 2.
    """
