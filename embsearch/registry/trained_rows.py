"""The training rows of registered models, which the run of their promotion keeps."""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embsearch.data.pairs import Keys

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "embsearch.promotion_run"  # of a version: the run of its promotion
DIGEST = "embsearch.trained_on"  # of a version: sha256 of that run's FILE; older versions have none
FILE = "trained_on.npy"


def content_of(keys: Keys) -> bytes:
    """Return what FILE holds."""
    made = io.BytesIO()
    np.save(made, keys)
    return made.getvalue()


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def trained_on(
    client: MlflowClient, run_id: str | None, digest: str | None = None
) -> tuple[Keys | None, str]:
    """Return the training rows of a promotion run's model; None, and why, where nothing tells
    them.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    if not run_id:
        return None, f"the version names no run of its promotion ({TAG})"
    name = f"{FILE} of run {run_id}"
    with tempfile.TemporaryDirectory(prefix="promotion.") as folder:
        try:
            content = Path(client.download_artifacts(run_id, FILE, folder)).read_bytes()
            if digest not in (None, digest_of(content)):
                return None, f"{name} is damaged: its sha256 is not the registered one"
            keys: Keys = np.load(io.BytesIO(content))
        except RequestException:  # an OSError too, but of a server that does not answer
            raise
        except OSError:
            return None, f"{name} is missing"
        except (ValueError, EOFError):
            return None, f"{name} is damaged: no list of rows"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None, f"{name} is missing"
            raise
    return keys, ""
