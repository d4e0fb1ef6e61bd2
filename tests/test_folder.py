"""A home's id, which tells its studies from others' in a database that they share."""

from __future__ import annotations

import subprocess
import sys

from embsearch.config.schema import Config
from embsearch.history.folder import StudyFolder


def test_processes_that_start_together_agree_on_the_home_s_id(tmp_path):
    code = (
        "import sys; from embsearch.history.folder import StudyFolder; from embsearch.config.schema import Config; "
        "print(StudyFolder(Config(home=sys.argv[1])).home_id)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "home")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    found = {process.communicate()[0].strip() for process in processes}
    assert found == {StudyFolder(Config(home=str(tmp_path / "home"))).home_id}
    assert StudyFolder(Config(home=str(tmp_path / "another"))).home_id not in found
