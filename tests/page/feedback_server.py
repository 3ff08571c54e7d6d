"""`fastunlearn feedback` as people start it: a process with a page."""

import os
import signal
import subprocess
import sys


class Server:
    """The command in a process of its own; `url` is what it printed."""

    def __init__(self, folder, *flags):
        command = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "  # also in the background
            "from fastunlearn.cli import main; sys.exit(main())"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", command, "feedback", "--no-browser", *map(str, flags)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.said = []
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("open http"):
                self.url = line.split()[1]
                return
        raise RuntimeError(self.process.communicate()[1])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.end(signal.SIGKILL)

    def end(self, with_signal=signal.SIGINT):
        """End it; its exit code, and what it said after the address and on stderr."""
        self.process.send_signal(with_signal)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err
