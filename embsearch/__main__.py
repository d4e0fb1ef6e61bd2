"""``python -m embsearch``: the command line."""

import sys

from embsearch.cli.main import main

sys.exit(main())
