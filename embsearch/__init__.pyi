from embsearch.api import Study as Study
from embsearch.api import load as load
from embsearch.api import open as open
from embsearch.api import search as search

__version__: str
