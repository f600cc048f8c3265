"""What a Ray Job runs: `python -m dreadnode_api.sandbox.ray_entry`, on a machine that Ray picks.

Only this file and the modules of the supervisor are sent there. It supervises the sandbox as on the
server's own machine: the same limits, the same end. Only its output, its token counts and its exit
code return to the server; `exit_codes.decode` reads from the code how the sandbox ended.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from dreadnode_api.sandbox.exit_codes import encode
from dreadnode_api.sandbox.supervisor import Supervisor

LAUNCH_SPEC = "DREADNODE_LAUNCH_SPEC"
"""The variable that holds the launch spec: the command, its environment and its limits."""


USAGE_FILE = "usage.json"
USAGE_MARK = "\ndreadnode token counts: "
"""Stands before the token counts, which are the end of the output."""


def main() -> int:
    """Run the sandbox of the launch spec and return how it ended, encoded."""
    launch_spec = json.loads(os.environ.pop(LAUNCH_SPEC))
    with tempfile.TemporaryDirectory(prefix="sandbox-") as name:
        folder = Path(name)
        home = str(folder / "work")
        # The programs and the temporary files are this machine's, not the server's.
        launch_spec["environment"] |= {"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": home}
        if not launch_spec["command"][0]:
            launch_spec["command"][0] = sys.executable
        supervised = Supervisor(folder, launch_spec)
        supervised.run()
        for part in ("output.1.log", "output.log"):
            if (folder / part).exists():
                sys.stdout.buffer.write((folder / part).read_bytes())
        usage = folder / "work" / USAGE_FILE
        if usage.exists():
            sys.stdout.write(f"{USAGE_MARK}{usage.read_text()}\n")
        sys.stdout.flush()
        outcome = json.loads((folder / "exit.json").read_text())
    return encode(int(outcome["code"]), outcome["reason"])


if __name__ == "__main__":
    sys.exit(main())
