"""embsearch: hyperparameter search for embedding models that proves what it found.

Three files tell the story: ``trial.py`` (one fine-tune), ``study.py`` (the search) and
``registry/promote.py`` (the best checkpoint becomes the champion).
"""

__version__ = "0.1.0"
