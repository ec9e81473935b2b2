"""Processes that die with the tests: whatever ends pytest, SIGKILL included, nothing that it started goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# The kernel's own promise (PR_SET_PDEATHSIG, SIGKILL), given before the program replaces this; a parent that is gone already is seen too.
_BIND = "import ctypes,os,sys;ctypes.CDLL(None).prctl(1,9);os.getppid()==int(sys.argv[1]) or os._exit(1);os.execv(sys.argv[2],sys.argv[2:])"


def mortal(command: Sequence[str]) -> list[str]:
    """The command, as a process that the kernel kills when this one, which starts it, ends. Only Linux knows that promise.

    It holds for the thread that starts the process: start it in one that lives as long. Children of the process are its own affair.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _BIND, str(os.getpid()), *command]
