"""The champion as an MLflow pyfunc, from code: MLflow runs this file, nothing is unpickled.

The saved model holds no weights, only where they lie and their digest, which is checked again
when it is loaded. ``mlflow models serve`` and ``mlflow.pyfunc.load_model`` take it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from embsearch.serve.encoder import TextEncoder, cosines, pairs
from embsearch.serve.requests import BadRequest, Limits, Rows, table
from embsearch.track.unaltered import check


class Texts(PythonModel):
    """A table of texts in, vectors out; of queries and titles, their cosines."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model. Raises ModelError where the files are not those that were registered."""
        config = context.model_config
        folder = Path(config["folder"])
        check(folder, config["digest"])
        self.limits = Limits(config["max_rows"], config["max_chars"])
        self.encode = TextEncoder.open(folder, config["device"])
        self.run = self.encode.as_they_are

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
        """Return (rows, width) vectors, or (rows,) cosines.

        Raises MlflowException naming the row.
        """
        try:
            rows = self._rows(model_input)
        except BadRequest as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from None
        if rows.titles is None:
            return self.run(self.encode.prompted(rows.texts, rows.role)).values
        return cosines(self.run(pairs(self.encode, rows)).values)

    def _rows(self, given: Any) -> Rows:
        if hasattr(given, "columns"):
            return table(
                list(given.columns),
                [list(given[name]) for name in given.columns],
                "rows",
                self.limits,
            )
        return table(["text"], [list(given)], "rows", self.limits)


set_model(Texts())
