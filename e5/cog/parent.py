"""Ends this process when the process that started it has ended, however that happened."""

import os
import threading
import time

POLL_SECONDS = 0.5


def end_with_parent() -> None:
    """From now on, exit when the parent has ended, in whatever state this process is.

    Cog's server does not end its worker when it is killed, or stopped while the worker still loads;
    the worker would keep the weights in memory.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="e5-parent", daemon=True).start()
