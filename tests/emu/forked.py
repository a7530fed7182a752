"""Calls a function in a process forked for it: a faulty kernel may crash, or never end, and leaves nothing behind there."""

import os
import pickle
import resource
import signal
import traceback
from collections.abc import Callable

#: Of a call, which takes about one. Time of the processor, whatever else the machine does meanwhile.
CPU_SECONDS = 60


def forked(run: Callable[[], str]) -> str:
    """What ``run`` returns, up to 1000 characters, or how its process ended; what it raises is raised here."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        said, error = "", ""
        try:
            said = run()
        except BaseException:  # of the tests' own: nothing that a fault in a kernel raises
            error = traceback.format_exc()
        os.write(write, pickle.dumps((said[:1000], error[-2000:])))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        answered = answer.read()
    _, status = os.waitpid(child, 0)
    if not answered:
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else f"ended with {status}"
    said, error = pickle.loads(answered)
    if error:
        raise RuntimeError(error)
    return str(said)
