"""``python powerless.py COMMAND...`` runs a command without capabilities: root, too, may then do no more than others.

Another user would do as well, were it not for files that only root can read, such as his Python.
"""

import ctypes
import os
import sys

PR_CAPBSET_DROP = 24

if __name__ == "__main__":
    libc = ctypes.CDLL(None)
    for capability in range(64):  # refused beyond the last one, and to whoever has none to drop
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.execvp(sys.argv[1], sys.argv[1:])
