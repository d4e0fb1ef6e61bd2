"""embsearch: hyperparameter search for embedding models that proves what it found.

Three files tell the story: ``trial.py`` (one fine-tune), ``study/run.py`` (the search) and
``registry/promote.py`` (the best checkpoint becomes the champion). In Python: ``api.py``.
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["Study", "load", "open", "search"]


def __getattr__(name: str) -> object:
    """Return a name of the API, imported when it is asked for: the command line starts at once."""
    if name not in __all__:
        raise AttributeError(f"module 'embsearch' has no attribute {name!r}")
    return getattr(import_module("embsearch.api"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
