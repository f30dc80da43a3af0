"""A process gives up what it doesn't need before it reads what a stranger wrote.

Two fences, each of use without the other: the kernel's resource limits, and, where libseccomp is installed, a filter
of system calls that leaves reading, writing and memory, but no opening of files, no sockets and no programs. A call
that isn't on the list ends the process with SIGSYS.
"""

from __future__ import annotations

import ctypes
import resource
import signal

_ALLOWED = (
    # files that are open already
    *("read", "write", "pread64", "pwrite64", "readv", "writev", "lseek", "close", "fstat", "newfstatat", "fsync"),
    # memory
    *("mmap", "munmap", "mremap", "mprotect", "madvise", "brk"),
    # being a process of Python
    *(
        "exit",
        "exit_group",
        "futex",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "sigaltstack",
        "restart_syscall",
    ),
    *("clock_gettime", "clock_nanosleep", "gettimeofday", "getrandom", "getpid", "gettid", "sched_yield"),
    *("sched_getaffinity", "getrusage"),
)
_SCMP_ACT_KILL_PROCESS = 0x80000000
_SCMP_ACT_ALLOW = 0x7FFF0000
_SCMP_ACT_ERRNO_EPERM = 0x00050001
_REFUSED_POLITELY = ("ioctl", "open", "openat", "prctl", "tgkill", "sysinfo", "uname")
"Libraries try these and live without; EPERM is answered."
_PR_SET_PDEATHSIG = 1


def limit_resources(*, memory: int, cpu_seconds: int, file_size: int) -> None:
    """Set limits for this process: octets of address space beyond what it has now, seconds, octets of one file."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        address_space = int(statm.read().split()[0]) * resource.getpagesize() + memory
    # The soft limit's SIGXCPU ends the process; the hard one is a second later, for what might ignore it.
    for name, soft, hard in (
        (resource.RLIMIT_AS, address_space, address_space),
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
        (resource.RLIMIT_FSIZE, file_size, file_size),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, ceiling = resource.getrlimit(name)
        if ceiling != resource.RLIM_INFINITY:
            limits = (min(soft, ceiling), min(hard, ceiling))
        else:
            limits = (soft, hard)
        resource.setrlimit(name, limits)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class SystemCallFilter:
    """The filter, made once by the parent and put on by each child. `available` is False without libseccomp."""

    def __init__(self) -> None:
        self._context: int | None = None
        try:
            self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        except OSError:
            return
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._library.seccomp_init.argtypes = [ctypes.c_uint32]
        self._library.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_void_p,
        ]
        self._library.seccomp_load.argtypes = [ctypes.c_void_p]
        context = self._library.seccomp_init(_SCMP_ACT_KILL_PROCESS)
        if context and all(self._add(context, name, _SCMP_ACT_ALLOW) for name in _ALLOWED):
            for name in _REFUSED_POLITELY:
                self._add(context, name, _SCMP_ACT_ERRNO_EPERM)
            self._context = context

    @property
    def available(self) -> bool:
        return self._context is not None

    def put_on(self) -> bool:
        """Confine this process for the rest of its life. Returns False where that can't be done."""
        return self._context is not None and self._library.seccomp_load(self._context) == 0

    def _add(self, context: int, name: str, action: int) -> bool:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            # Not a system call of this machine's kind, so nothing can need it.
            return True
        return bool(self._library.seccomp_rule_add_array(context, action, number, 0, None) == 0)
