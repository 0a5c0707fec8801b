"""Become another user, ask to be stopped with the parent, then become the program.

Run by path, so it imports nothing of ours:

    python -I -S _launch.py UID:GID|- PARENT_PID|- PROGRAM ARGUMENT...

A preexec_fn would do the same, but it runs Python in a forked copy of a process that may have threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(owner: str, parent: str, program: str, *arguments: str) -> None:
    """Replace this process by the program; the order matters, for a change of user clears the parent-death signal."""
    if owner != "-":
        uid, gid = map(int, owner.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if parent != "-" and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != int(parent):
            sys.exit("the supervisor is gone")
    os.execve(program, [program, *arguments], {"PATH": os.defpath, "LC_ALL": "C"})


if __name__ == "__main__":
    main(*sys.argv[1:])
