"""The training rows of registered models, which the run of their promotion keeps."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import numpy as np

from embsearch.data.pairs import Keys

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "embsearch.promotion_run"  # of a version: the run of its promotion
FILE = "trained_on.npy"


def trained_on(client: MlflowClient, run_id: str | None) -> Keys | None:
    """Return the training rows of a promotion run's model; None where they are not known (any
    more).
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    if not run_id:
        return None
    with tempfile.TemporaryDirectory(prefix="promotion.") as folder:
        try:
            pairs: Keys = np.load(client.download_artifacts(run_id, FILE, folder))
        except RequestException:  # an OSError too, but of a server that does not answer
            raise
        except (OSError, ValueError):
            return None
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
    return pairs
