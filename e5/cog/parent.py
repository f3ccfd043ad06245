"""Ends this process with the one that started it, whatever happens to that one.

Knows nothing of what either does.
"""

import os
import threading
import time

SECONDS = 0.5  # between two looks


def end_with_parent() -> None:
    """From now on, exit when the parent has ended, in whatever state this process is.

    Cog's server does not end its worker when it is killed, or stopped while the worker still loads;
    the worker would keep the weights in memory.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="e5-parent", daemon=True).start()
