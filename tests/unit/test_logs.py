from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging
from gammabeta import logs
logs.set_up(as_json=True)
logs.get("ours").warning("before")
logs.of_request("r-1")
logs.get("ours").warning("said", model="digits\\x1b[31m\\nforged")
logging.getLogger("theirs").warning("said")
"""


def test_each_line_is_one_object_and_has_the_id_of_its_request() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, *after = [json.loads(line) for line in done.stderr.splitlines()]
    assert "request_id" not in before
    assert [(each["event"], each["request_id"], each["level"]) for each in after] == [("said", "r-1", "warning")] * 2
    assert after[0]["model"] == "digits\x1b[31m\nforged"
    assert "\x1b" not in done.stderr
